package controllers

import (
	"context"
	"fmt"
	"os"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/orlop-io/orlop/cmd/controllers/bootstraptoken"
	"github.com/orlop-io/orlop/cmd/controllers/csr"
	"github.com/orlop-io/orlop/cmd/controllers/daemonset"
	"github.com/orlop-io/orlop/cmd/controllers/deployment"
	"github.com/orlop-io/orlop/cmd/controllers/endpoints"
	"github.com/orlop-io/orlop/cmd/controllers/endpointslice"
	"github.com/orlop-io/orlop/cmd/controllers/garbage"
	"github.com/orlop-io/orlop/cmd/controllers/job"
	"github.com/orlop-io/orlop/cmd/controllers/namespace"
	"github.com/orlop-io/orlop/cmd/controllers/nodeipam"
	"github.com/orlop-io/orlop/cmd/controllers/nodelifecycle"
	"github.com/orlop-io/orlop/cmd/controllers/podgc"
	"github.com/orlop-io/orlop/cmd/controllers/replicaset"
	"github.com/orlop-io/orlop/cmd/controllers/roleaggregation"
	"github.com/orlop-io/orlop/cmd/controllers/rootca"
	"github.com/orlop-io/orlop/cmd/controllers/serviceaccount"
	"github.com/orlop-io/orlop/cmd/controllers/servicecidr"
	"github.com/orlop-io/orlop/cmd/controllers/slicemirror"
	"github.com/orlop-io/orlop/cmd/controllers/statefulset"
	"github.com/orlop-io/orlop/cmd/controllers/tainteviction"
)

// runner works until ctx ends.
type runner func(ctx context.Context) error

// entry is one controller. build returns nil where the flags leave it nothing to do.
type entry struct {
	name, alias string
	// account is the ServiceAccount it acts as, upstream's, to which RBAC's bootstrap roles are bound.
	account string
	// off controllers run only when named.
	off   bool
	build func(e *env, api *rest.Config) (runner, error)
}

func (e entry) is(name string) bool { return name == e.name || name == e.alias }

func names() []string {
	var all []string
	for _, e := range table() {
		all = append(all, e.name)
	}
	return all
}

// absent are upstream's controllers that are not here, by name and alias: volumes of storage systems with attachments, device
// claims, pod groups, SELinux, and what belongs to a cloud.
func absent() []string {
	return []string{
		"persistentvolume-attach-detach-controller", "attachdetach", "resourceclaim-controller", "resource-claim-controller", "device-taint-eviction-controller",
		"resourcepoolstatusrequest-controller", "storageversion-garbage-collector-controller", "storage-version-gc",
		"podgroup-protection-controller", "selinux-warning-controller",
		"service-lb-controller", "service", "node-route-controller", "route", "cloud-node-lifecycle-controller", "cloud-node-lifecycle",
	}
}

// typed adapts a build function that wants an ordinary client.
func typed(build func(e *env, client kubernetes.Interface) (runner, error)) func(*env, *rest.Config) (runner, error) {
	return func(e *env, api *rest.Config) (runner, error) {
		client, err := kubernetes.NewForConfig(api)
		if err != nil {
			return nil, fmt.Errorf("make client: %w", err)
		}
		return build(e, client)
	}
}

// table lists all controllers under upstream's names.
func table() []entry {
	return slices.Concat(workloads(), batch(), autoscaling(), volumes(), cluster(), budgets(), access(), checks())
}

func workloads() []entry {
	return []entry{
		{name: "deployment-controller", alias: "deployment", account: "deployment-controller",
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				d, err := deployment.New(c, e.shared, e.recorder("deployment-controller"), e.log)
				return d.Run, err
			})},
		{name: "replicaset-controller", alias: "replicaset", account: "replicaset-controller",
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				kind := replicaset.ReplicaSets(c, e.shared.Apps().V1().ReplicaSets())
				r, err := replicaset.New("replicaset", kind, c, e.shared.Core().V1().Pods(), e.recorder("replicaset-controller"), e.log)
				return r.Run, err
			})},
		{name: "replicationcontroller-controller", alias: "replicationcontroller", account: "replication-controller",
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				kind := replicaset.ReplicationControllers(c, e.shared.Core().V1().ReplicationControllers())
				r, err := replicaset.New("replicationcontroller", kind, c, e.shared.Core().V1().Pods(), e.recorder("replication-controller"), e.log)
				return r.Run, err
			})},
		{name: "daemonset-controller", alias: "daemonset", account: "daemon-set-controller",
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				d, err := daemonset.New(c, e.shared, e.recorder("daemonset-controller"), e.log)
				return d.Run, err
			})},
		{name: "job-controller", alias: "job", account: "job-controller",
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				j, err := job.New(c, e.shared, e.recorder("job-controller"), e.log)
				return j.Run, err
			})},
		{name: "statefulset-controller", alias: "statefulset", account: "statefulset-controller",
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				s, err := statefulset.New(c, e.shared, e.recorder("statefulset-controller"), e.log)
				return s.Run, err
			})},
		{name: "endpoints-controller", alias: "endpoint", account: "endpoint-controller",
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				p, err := endpoints.New(c, e.shared, e.recorder("endpoint-controller"), e.log)
				return p.Run, err
			})},
		{name: "endpointslice-controller", alias: "endpointslice", account: "endpointslice-controller",
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				p, err := endpointslice.New(c, e.shared, e.recorder("endpoint-slice-controller"), e.log)
				return p.Run, err
			})},
		{name: "endpointslice-mirroring-controller", alias: "endpointslicemirroring", account: "endpointslicemirroring-controller",
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				m, err := slicemirror.New(c, e.shared, e.log)
				return m.Run, err
			})},
	}
}

func cluster() []entry {
	return []entry{
		{name: "namespace-controller", alias: "namespace", account: "namespace-controller",
			build: func(e *env, api *rest.Config) (runner, error) {
				c, err := kubernetes.NewForConfig(api)
				if err != nil {
					return nil, err
				}
				m, err := metadata.NewForConfig(api)
				if err != nil {
					return nil, err
				}
				n, err := namespace.New(c, m, e.shared.Core().V1().Namespaces(), e.log)
				return n.Run, err
			}},
		{name: "node-ipam-controller", alias: "nodeipam", account: "node-controller",
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				if !e.allocateCIDRs {
					return nil, nil
				}
				pools, err := nodeipam.ParsePools(e.clusterCIDR, e.mask4, e.mask6)
				if err != nil {
					return nil, err
				}
				n, err := nodeipam.New(c, e.shared.Core().V1().Nodes(), pools, e.recorder("cidrAllocator"), e.log)
				if err != nil {
					return nil, err
				}
				return n.Run, nil
			})},
		{name: "node-lifecycle-controller", alias: "nodelifecycle", account: "node-controller",
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				leases := e.only(informers.WithNamespace("kube-node-lease")).Coordination().V1().Leases()
				n, err := nodelifecycle.New(e.nodes, c, e.shared, leases, e.recorder("node-controller"), e.log)
				if err != nil {
					return nil, err
				}
				return n.Run, nil
			})},
		{name: "service-cidr-controller", alias: "service-cidr-controller", account: "service-cidrs-controller",
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				s, err := servicecidr.New(c, e.shared, e.log)
				return s.Run, err
			})},
		{name: "taint-eviction-controller", alias: "taint-eviction", account: "node-controller",
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				t, err := tainteviction.New(c, e.shared, e.recorder("taint-eviction-controller"), e.log)
				return t.Run, err
			})},
		{name: "pod-garbage-collector-controller", alias: "podgc", account: "pod-garbage-collector",
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				return podgc.New(c, e.shared, e.terminatedPods, e.log).Run, nil
			})},
	}
}

func access() []entry {
	return []entry{
		{name: "garbage-collector-controller", alias: "garbagecollector", account: "generic-garbage-collector",
			build: func(e *env, api *rest.Config) (runner, error) {
				c, err := kubernetes.NewForConfig(api)
				if err != nil {
					return nil, err
				}
				watch, err := metadata.NewForConfig(e.api)
				if err != nil {
					return nil, err
				}
				act, err := metadata.NewForConfig(api)
				if err != nil {
					return nil, err
				}
				return garbage.New(c.Discovery(), garbage.Watching(watch), act, e.recorder("garbage-collector-controller"), e.log).Run, nil
			}},
		{name: "serviceaccount-controller", alias: "serviceaccount", account: "service-account-controller",
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				s, err := serviceaccount.New(c, e.shared, e.log)
				return s.Run, err
			})},
		{name: "root-ca-certificate-publisher-controller", alias: "root-ca-cert-publisher", account: "root-ca-cert-publisher",
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				if e.rootCAFile == "" {
					return nil, nil
				}
				ca, err := os.ReadFile(e.rootCAFile)
				if err != nil {
					return nil, fmt.Errorf("read root CA: %w", err)
				}
				maps := e.only(named(rootca.Name)).Core().V1().ConfigMaps()
				r, err := rootca.New(c, ca, e.shared.Core().V1().Namespaces(), maps, e.log)
				return r.Run, err
			})},
		{name: "certificatesigningrequest-approving-controller", alias: "csrapproving", account: "certificate-controller",
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				a, err := csr.NewApprover(c, e.shared.Certificates().V1().CertificateSigningRequests(), e.log)
				return a.Run, err
			})},
		{name: "certificatesigningrequest-signing-controller", alias: "csrsigning", account: "certificate-controller",
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				signer, err := e.signer()
				if signer == nil || err != nil {
					return nil, err
				}
				s, err := csr.NewSigning(c, e.shared.Certificates().V1().CertificateSigningRequests(), signer, e.log)
				return s.Run, err
			})},
		{name: "certificatesigningrequest-cleaner-controller", alias: "csrcleaner", account: "certificate-controller",
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				return csr.NewCleaner(c, e.shared.Certificates().V1().CertificateSigningRequests(), e.log).Run, nil
			})},
		{name: "clusterrole-aggregation-controller", alias: "clusterrole-aggregation", account: "clusterrole-aggregation-controller",
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				r, err := roleaggregation.New(c, e.shared.Rbac().V1().ClusterRoles(), e.log)
				return r.Run, err
			})},
		{name: "bootstrap-signer-controller", alias: "bootstrapsigner", account: "bootstrap-signer", off: true,
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				infos := e.only(informers.WithNamespace(metav1.NamespacePublic), named("cluster-info")).Core().V1().ConfigMaps()
				s, err := bootstraptoken.NewSigner(c, infos, e.tokens(), e.log)
				return s.Run, err
			})},
		{name: "token-cleaner-controller", alias: "tokencleaner", account: "token-cleaner", off: true,
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				t, err := bootstraptoken.NewCleaner(c, e.tokens(), e.log)
				return t.Run, err
			})},
	}
}

// named selects objects of one name.
func named(name string) informers.SharedInformerOption {
	return informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.FieldSelector = "metadata.name=" + name })
}

// tokens is the informer of bootstrap tokens; other Secrets never enter this process.
func (e *env) tokens() coreinformers.SecretInformer {
	if e.tokenInformer == nil {
		e.tokenInformer = e.newTokenInformer()
	}
	return e.tokenInformer
}

func (e *env) newTokenInformer() coreinformers.SecretInformer {
	return e.only(informers.WithNamespace(metav1.NamespaceSystem), informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = "type=bootstrap.kubernetes.io/token"
	})).Core().V1().Secrets()
}
