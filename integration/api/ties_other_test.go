package api

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"reflect"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// otherTies make the fields of kinds other than pods fit together.
func otherTies() []any {
	return slicesOf(workloadTies(), clusterTies(), deviceTies(), policyTies())
}

var matchX = map[string]string{"app": "x"}

func clusterTies() []any {
	return []any{
		func(e *corev1.Event, g *grower, path string) {
			e.InvolvedObject.Namespace = g.ns
			if g.turn(path+"?", 2) == 0 {
				e.FirstTimestamp, e.LastTimestamp, e.Count, e.Source = metav1.Time{}, metav1.Time{}, 0, corev1.EventSource{}
			} else {
				e.EventTime, e.Series = metav1.MicroTime{}, nil
			}
		},
		func(e *eventsv1.Event, g *grower, _ string) {
			e.Regarding.Namespace = g.ns
			e.DeprecatedCount, e.DeprecatedFirstTimestamp, e.DeprecatedLastTimestamp, e.DeprecatedSource = 0, metav1.Time{}, metav1.Time{}, corev1.EventSource{}
		},
		func(n *corev1.NodeSpec, g *grower, path string) {
			g.serial++
			cidr := fmt.Sprintf("10.%d.%d.0/24", 100+g.serial%100, g.rnd.IntN(200))
			n.PodCIDR, n.PodCIDRs = cidr, []string{cidr, "fd00:1::/64"}
		},
		func(s *corev1.ServiceSpec, g *grower, path string) { serviceTie(s, g, path) },
		func(s *corev1.Service, _ *grower, _ string) {
			if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
				s.Status.LoadBalancer = corev1.LoadBalancerStatus{}
			}
		},
		rangeTie, quotaTie,
		func(s *apiregistrationv1.APIServiceSpec, g *grower, path string) {
			if s.CABundle != nil && g.turn(path+"?", 2) == 0 {
				s.InsecureSkipTLSVerify = false
			} else {
				s.CABundle, s.InsecureSkipTLSVerify = nil, true
			}
		},
		func(r *certificatesv1.PodCertificateRequest, g *grower, path string) {
			if path != "status" {
				return
			}
			s := &r.Status
			s.CertificateChain = issued(r.Spec.StubPKCS10Request)
			from := metav1.NewTime(time.Now().Add(-time.Minute).Truncate(time.Second))
			s.NotBefore, s.NotAfter, s.BeginRefreshAt = &from, new(metav1.NewTime(from.Add(time.Hour))), new(metav1.NewTime(from.Add(30*time.Minute)))
			s.Conditions = []metav1.Condition{{Type: certificatesv1.PodCertificateRequestConditionTypeIssued, Status: metav1.ConditionTrue, Reason: "R", Message: g.word(), LastTransitionTime: from, ObservedGeneration: 1}}
		},
		func(s *storagev1.VolumeAttachmentSource, g *grower, _ string) {
			if v := s.InlineVolumeSpec; v != nil {
				*v = corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{}}, AccessModes: v.AccessModes, NodeAffinity: v.NodeAffinity, VolumeMode: v.VolumeMode, MountOptions: v.MountOptions}
				g.grow(reflect.ValueOf(v.CSI).Elem(), "csi", place{})
			}
		},
		func(p *networkingv1.NetworkPolicyPeer, g *grower, path string) {
			if p.IPBlock != nil && g.turn(path+"?", 2) == 0 {
				p.PodSelector, p.NamespaceSelector = nil, nil
			} else if p.PodSelector != nil || p.NamespaceSelector != nil {
				p.IPBlock = nil
			}
		},
		func(p *networkingv1.NetworkPolicyPort, _ *grower, _ string) {
			if p.Port == nil {
				p.EndPort = nil
			}
		},
		func(s *networkingv1.NetworkPolicySpec, _ *grower, _ string) {
			s.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}
		},
		func(p *networkingv1.ServiceBackendPort, g *grower, path string) {
			if g.turn(path+"?", 2) == 0 {
				*p = networkingv1.ServiceBackendPort{Name: "p-" + g.word()[:3]}
			} else {
				*p = networkingv1.ServiceBackendPort{Number: 8080}
			}
		},
		func(s *networkingv1.ServiceCIDRSpec, g *grower, _ string) {
			g.serial++
			s.CIDRs = []string{fmt.Sprintf("10.197.%d.0/24", g.serial%200), fmt.Sprintf("fd00:%x::/112", g.serial)}
		},
		func(p *networkingv1.IngressClassParametersReference, g *grower, _ string) {
			if p.Scope == nil || *p.Scope == networkingv1.IngressClassParametersReferenceScopeCluster {
				p.Namespace = nil
			} else {
				p.Namespace = new(g.ns)
			}
		},
		func(s *rbacv1.Subject, g *grower, _ string) {
			if s.Kind == rbacv1.ServiceAccountKind {
				s.APIGroup, s.Namespace = "", g.ns
			} else {
				s.APIGroup, s.Namespace = rbacv1.GroupName, ""
			}
		},
		func(r *rbacv1.PolicyRule, g *grower, path string) {
			if path == "rules[]" && g.turn(path+"?", 2) == 0 && len(r.NonResourceURLs) > 0 {
				r.APIGroups, r.Resources, r.ResourceNames = nil, nil, nil
			} else {
				r.NonResourceURLs = nil
				r.APIGroups, r.Resources = []string{"none.example"}, []string{"nothings", "nothings/status"}
			}
		},
		func(r *rbacv1.Role, _ *grower, _ string) {
			for i := range r.Rules {
				r.Rules[i].NonResourceURLs = nil
				r.Rules[i].APIGroups, r.Rules[i].Resources = []string{"none.example"}, []string{"nothings"}
			}
		},
		func(p *discoveryv1.EndpointPort, g *grower, _ string) { p.Name = new("p-" + g.word()) },
		func(s *flowcontrolv1.Subject, _ *grower, _ string) {
			switch s.Kind {
			case flowcontrolv1.SubjectKindUser:
				s.Group, s.ServiceAccount = nil, nil
			case flowcontrolv1.SubjectKindGroup:
				s.User, s.ServiceAccount = nil, nil
			default:
				s.Group, s.User = nil, nil
			}
		},
		func(s *flowcontrolv1.PriorityLevelConfigurationSpec, _ *grower, _ string) {
			if s.Type == flowcontrolv1.PriorityLevelEnablementExempt {
				s.Limited = nil
			} else {
				s.Exempt = nil
			}
		},
		func(r *flowcontrolv1.LimitResponse, _ *grower, _ string) {
			if r.Type == flowcontrolv1.LimitResponseTypeReject {
				r.Queuing = nil
			}
		},
	}
}

// issued is a certificate for the key of a request.
func issued(request []byte) string {
	r, err := x509.ParseCertificateRequest(request)
	if err != nil {
		panic(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	now := time.Now().Add(-time.Minute).Truncate(time.Second)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: r.Subject, NotBefore: now, NotAfter: now.Add(time.Hour)}
	parent := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: r.Subject}
	der, err := x509.CreateCertificate(rand.Reader, leaf, parent, r.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func rangeTie(i *corev1.LimitRangeItem, g *grower, _ string) {
	list := func(s string) corev1.ResourceList {
		return corev1.ResourceList{"cpu": apiresource.MustParse(s), "memory": apiresource.MustParse(s + "Gi")}
	}
	i.Min, i.Max, i.MaxLimitRequestRatio = list("1"), list("9"), list("2")
	i.Default, i.DefaultRequest = nil, nil
	switch i.Type {
	case corev1.LimitTypeContainer:
		i.Default, i.DefaultRequest = list("4"), list("2")
		i.MaxLimitRequestRatio = corev1.ResourceList{"cpu": apiresource.MustParse("3")}
	case corev1.LimitTypePersistentVolumeClaim:
		i.Min, i.Max, i.MaxLimitRequestRatio = corev1.ResourceList{"storage": apiresource.MustParse("1Gi")}, corev1.ResourceList{"storage": apiresource.MustParse("5Gi")}, nil
	default:
		i.MaxLimitRequestRatio = corev1.ResourceList{"cpu": apiresource.MustParse("3")}
	}
}

func quotaTie(s *corev1.ResourceQuotaSpec, g *grower, path string) {
	s.Hard = corev1.ResourceList{"pods": apiresource.MustParse("5"), "cpu": apiresource.MustParse("100")}
	s.Scopes, s.ScopeSelector = nil, nil
	switch g.turn(path+"?", 4) {
	case 0:
		s.Scopes = []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeNotBestEffort}
	case 1:
		s.ScopeSelector = &corev1.ScopeSelector{MatchExpressions: []corev1.ScopedResourceSelectorRequirement{{ScopeName: corev1.ResourceQuotaScopePriorityClass, Operator: corev1.ScopeSelectorOpIn, Values: []string{g.word()}},
			{ScopeName: corev1.ResourceQuotaScopeTerminating, Operator: corev1.ScopeSelectorOpExists}}}
	case 2:
		s.Scopes = []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopePriorityClass}
	}
}

func serviceTie(s *corev1.ServiceSpec, g *grower, path string) {
	if s.Type == corev1.ServiceTypeExternalName {
		*s = corev1.ServiceSpec{Type: s.Type, ExternalName: "e." + g.word() + ".example", Ports: s.Ports, Selector: s.Selector, SessionAffinity: corev1.ServiceAffinityNone, PublishNotReadyAddresses: true}
		return
	}
	s.ExternalName = ""
	if s.SessionAffinity != corev1.ServiceAffinityClientIP {
		s.SessionAffinityConfig = nil
	}
	if s.Type != corev1.ServiceTypeLoadBalancer {
		s.LoadBalancerIP, s.LoadBalancerClass, s.LoadBalancerSourceRanges, s.AllocateLoadBalancerNodePorts = "", nil, nil, nil
	}
	if s.Type == corev1.ServiceTypeClusterIP && len(s.ExternalIPs) == 0 {
		s.ExternalTrafficPolicy = ""
	}
	if g.sparse > 0 && g.turn(path+"?fixed", 2) == 0 {
		return
	}
	g.serial++
	s.ClusterIP = fmt.Sprintf("10.%d.%d.%d", 97+g.serial%10, g.rnd.IntN(256), 1+g.rnd.IntN(250))
	s.ClusterIPs, s.IPFamilies, s.IPFamilyPolicy = []string{s.ClusterIP}, []corev1.IPFamily{corev1.IPv4Protocol}, new(corev1.IPFamilyPolicySingleStack)
	if s.Type == corev1.ServiceTypeClusterIP {
		return
	}
	for i := range s.Ports {
		s.Ports[i].NodePort = 30000 + g.rnd.Int32N(1000)*2 + int32(i%2)
	}
	if s.Type == corev1.ServiceTypeLoadBalancer && s.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		s.HealthCheckNodePort = 32000 + g.rnd.Int32N(700)
	}
}
