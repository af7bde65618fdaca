package api

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// resource is one that is served.
type resource struct {
	groupVersion, name, kind string
	namespaced               bool
	subresources             []string
}

func (r resource) String() string { return r.groupVersion + "/" + r.name }

// path of the resource's collection.
func (r resource) path(ns string) string {
	p := "/apis/" + r.groupVersion
	if r.groupVersion == "v1" {
		p = "/api/v1"
	}
	if r.namespaced {
		p += "/namespaces/" + ns
	}
	return p + "/" + r.name
}

// resources are those that discovery names with all of the verbs.
func resources(t *testing.T, verbs ...string) []resource {
	t.Helper()
	_, lists, err := server.Client.Discovery().ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	var out []resource
	for _, l := range lists {
		for _, r := range l.APIResources {
			whole := !strings.Contains(r.Name, "/") && !strings.HasSuffix(l.GroupVersion, ".example.com/v1")
			for _, v := range verbs {
				whole = whole && slices.Contains(r.Verbs, v)
			}
			if !whole || *onlyFlag != "" && *onlyFlag != l.GroupVersion+"/"+r.Name {
				continue
			}
			out = append(out, resource{l.GroupVersion, r.Name, r.Kind, r.Namespaced, subresources(l, r.Name)})
		}
	}
	return out
}

func subresources(l *metav1.APIResourceList, of string) []string {
	var out []string
	for _, r := range l.APIResources {
		if sub, found := strings.CutPrefix(r.Name, of+"/"); found {
			out = append(out, sub)
		}
	}
	return out
}

const (
	podSpec  = "{containers: [{name: c, image: nowhere.invalid/none}]}"
	template = "{metadata: {labels: {app: x}}, spec: " + podSpec + "}"
	never    = "{template: {spec: {restartPolicy: Never, containers: [{name: c, image: nowhere.invalid/none}]}}}"
	workload = "selector: {matchLabels: {app: x}}, template: " + template
	match    = "matchConstraints: {resourceRules: [{apiGroups: [none.example], apiVersions: [v1], operations: [CREATE], resources: [nothings]}]}"
	hook     = "webhooks: [{name: h.none.example, clientConfig: {url: 'https://nowhere.invalid/'}, sideEffects: None, admissionReviewVersions: [v1], rules: [{apiGroups: [none.example], apiVersions: [v1], operations: [CREATE], resources: [nothings]}]}]"
	devices  = "devices: {requests: [{name: r, exactly: {deviceClassName: none}}]}"
	event    = "{metadata: {namespace: $NS}, involvedObject: {kind: Pod, name: p, namespace: $NS}, reason: R, message: m, type: Normal}"
)

// leasts are the smallest objects that are valid, without name and kind; a resource that is not here is served
// without anybody having thought of it.
func leasts(t *testing.T) map[string]string {
	hpa := "{spec: {maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: d}}}"
	return map[string]string{
		"v1/configmaps": "{data: {a: b}}", "v1/secrets": "{}", "v1/serviceaccounts": "{}", "v1/namespaces": "{}", "v1/nodes": "{}",
		"v1/endpoints": "{}", "v1/events": event, "v1/limitranges": "{spec: {limits: [{type: Container}]}}",
		"v1/persistentvolumeclaims":               "{spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}",
		"v1/persistentvolumes":                    "{spec: {accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}, hostPath: {path: /x}}}",
		"v1/pods":                                 "{spec: " + podSpec + "}",
		"v1/podtemplates":                         "{template: " + template + "}",
		"v1/replicationcontrollers":               "{spec: {replicas: 0, selector: {app: x}, template: " + template + "}}",
		"v1/resourcequotas":                       "{spec: {hard: {pods: '100'}}}",
		"v1/services":                             "{spec: {ports: [{name: p, port: 80}]}}",
		"apps/v1/controllerrevisions":             "{revision: 1, data: {a: 1}}",
		"apps/v1/daemonsets":                      "{spec: {" + workload + "}}",
		"apps/v1/deployments":                     "{spec: {replicas: 0, " + workload + "}}",
		"apps/v1/replicasets":                     "{spec: {replicas: 0, " + workload + "}}",
		"apps/v1/statefulsets":                    "{spec: {replicas: 0, serviceName: s, " + workload + "}}",
		"batch/v1/jobs":                           "{metadata: {labels: {app: x}}, spec: {manualSelector: false, " + never[1:] + "}",
		"batch/v1/cronjobs":                       "{spec: {schedule: '0 0 1 1 *', jobTemplate: {spec: " + never + "}}}",
		"autoscaling/v1/horizontalpodautoscalers": hpa, "autoscaling/v2/horizontalpodautoscalers": hpa,
		"policy/v1/poddisruptionbudgets":                                    "{spec: {minAvailable: 1, selector: {matchLabels: {app: x}}}}",
		"networking.k8s.io/v1/ingresses":                                    "{spec: {defaultBackend: {service: {name: s, port: {number: 80}}}}}",
		"networking.k8s.io/v1/ingressclasses":                               "{spec: {controller: none.example/c}}",
		"networking.k8s.io/v1/ipaddresses":                                  "{metadata: {name: 192.168.77.$N}, spec: {parentRef: {resource: services, name: s, namespace: ns}}}",
		"networking.k8s.io/v1/networkpolicies":                              "{spec: {podSelector: {}}}",
		"networking.k8s.io/v1/servicecidrs":                                 "{spec: {cidrs: ['10.196.$N.0/24']}}",
		"discovery.k8s.io/v1/endpointslices":                                "{addressType: IPv4, endpoints: [{addresses: [10.1.2.3]}], ports: [{name: p, port: 80}]}",
		"rbac.authorization.k8s.io/v1/roles":                                "{rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]}",
		"rbac.authorization.k8s.io/v1/clusterroles":                         "{rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]}",
		"rbac.authorization.k8s.io/v1/rolebindings":                         "{roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: r}}",
		"rbac.authorization.k8s.io/v1/clusterrolebindings":                  "{roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: r}}",
		"certificates.k8s.io/v1/certificatesigningrequests":                 "{spec: {signerName: none.example/s, usages: [client auth], request: " + signingRequest(t) + "}}",
		"certificates.k8s.io/v1/podcertificaterequests":                     "{spec: {signerName: none.example/s, podName: p, podUID: u, serviceAccountName: s, serviceAccountUID: u, nodeName: node, nodeUID: u, stubPKCS10Request: " + base64.StdEncoding.EncodeToString(stubRequest(t)) + "}}",
		"certificates.k8s.io/v1/clustertrustbundles":                        "{metadata: {name: 'none.example:s:r$N'}, spec: {signerName: none.example/s, trustBundle: " + trustBundle(t) + "}}",
		"coordination.k8s.io/v1/leases":                                     "{spec: {holderIdentity: me, leaseDurationSeconds: 30}}",
		"events.k8s.io/v1/events":                                           "{metadata: {namespace: $NS}, eventTime: '2026-01-01T00:00:00.000000Z', reportingController: c, reportingInstance: i, action: A, reason: R, type: Normal, regarding: {kind: Pod, name: p, namespace: $NS}}",
		"node.k8s.io/v1/runtimeclasses":                                     "{handler: h}",
		"scheduling.k8s.io/v1/priorityclasses":                              "{value: 5}",
		"storage.k8s.io/v1/csidrivers":                                      "{spec: {}}",
		"storage.k8s.io/v1/csinodes":                                        "{spec: {drivers: []}}",
		"storage.k8s.io/v1/csistoragecapacities":                            "{storageClassName: s}",
		"storage.k8s.io/v1/storageclasses":                                  "{provisioner: none.example/p}",
		"storage.k8s.io/v1/volumeattachments":                               "{spec: {attacher: none.example, nodeName: node, source: {persistentVolumeName: pv}}}",
		"storage.k8s.io/v1/volumeattributesclasses":                         "{driverName: none.example, parameters: {a: b}}",
		"resource.k8s.io/v1/deviceclasses":                                  "{spec: {}}",
		"resource.k8s.io/v1/devicetaintrules":                               "{spec: {deviceSelector: {driver: none.example}, taint: {key: none.example/t, effect: NoSchedule}}}",
		"resource.k8s.io/v1/resourceclaims":                                 "{spec: {" + devices + "}}",
		"resource.k8s.io/v1/resourceclaimtemplates":                         "{spec: {spec: {" + devices + "}}}",
		"resource.k8s.io/v1/resourceslices":                                 "{spec: {driver: none.example, nodeName: node, pool: {name: p, generation: 1, resourceSliceCount: 1}}}",
		"admissionregistration.k8s.io/v1/mutatingwebhookconfigurations":     "{" + hook + "}",
		"admissionregistration.k8s.io/v1/validatingwebhookconfigurations":   "{" + hook + "}",
		"admissionregistration.k8s.io/v1/validatingadmissionpolicies":       "{spec: {" + match + ", validations: [{expression: 'true'}]}}",
		"admissionregistration.k8s.io/v1/validatingadmissionpolicybindings": "{spec: {policyName: none, validationActions: [Deny]}}",
		"admissionregistration.k8s.io/v1/mutatingadmissionpolicies":         "{spec: {" + match + ", reinvocationPolicy: Never, mutations: [{patchType: ApplyConfiguration, applyConfiguration: {expression: 'Object{}'}}]}}",
		"admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings":   "{spec: {policyName: none}}",
		"flowcontrol.apiserver.k8s.io/v1/flowschemas":                       "{spec: {matchingPrecedence: 9000, priorityLevelConfiguration: {name: none}, rules: [{subjects: [{kind: User, user: {name: nobody}}], nonResourceRules: [{verbs: ['*'], nonResourceURLs: [/none]}]}]}}",
		"flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations":       "{spec: {type: Limited, limited: {nominalConcurrencyShares: 2, limitResponse: {type: Reject}}}}",
		"storagemigration.k8s.io/v1/storageversionmigrations":               "{spec: {resource: {group: none.example, resource: nothings}}}",
		"apiextensions.k8s.io/v1/customresourcedefinitions": "{metadata: {name: things$N.none.example}, spec: {group: none.example, scope: Namespaced, names: {plural: things$N, kind: Thing$N, listKind: Thing$NList, singular: thing$N}, " +
			"versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]}}",
		"apiregistration.k8s.io/v1/apiservices": "{metadata: {name: v1.g$N.none.example}, spec: {group: g$N.none.example, version: v1, groupPriorityMinimum: 10, versionPriority: 10, insecureSkipTLSVerify: true, service: {name: s, namespace: ns}}}",
	}
}

// least is the smallest valid object of r with a name of its own.
func least(t *testing.T, r resource, ns string, n int) map[string]any {
	t.Helper()
	text, found := leasts(t)[r.String()]
	if !found {
		t.Fatalf("%s is served, and no least object of it is written here", r)
	}
	text = strings.NewReplacer("$NS", ns, "$N", fmt.Sprint(n)).Replace(text)
	o := map[string]any{}
	if err := yaml.Unmarshal([]byte(text), &o); err != nil {
		t.Fatalf("%s: %v", r, err)
	}
	meta, _ := o["metadata"].(map[string]any)
	if meta == nil {
		meta = map[string]any{}
		o["metadata"] = meta
	}
	if meta["name"] == nil {
		meta["name"] = fmt.Sprintf("r%d", n)
	}
	o["apiVersion"], o["kind"] = r.groupVersion, r.kind
	return o
}

func name(o map[string]any) string {
	meta, _ := o["metadata"].(map[string]any)
	s, _ := meta["name"].(string)
	return s
}

func encode(o any) []byte {
	b, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	return b
}

// remove deletes an object and waits until it is gone; nobody else finishes here what waits for a controller.
func remove(t *testing.T, r resource, ns, name string) {
	t.Helper()
	path := r.path(ns) + "/" + name
	eventually(t, 20*time.Second, "the end of "+path, func() error {
		ctx := context.Background()
		if _, err := request(ctx, "PATCH", path, "application/merge-patch+json", asJSON, []byte(`{"metadata":{"finalizers":null}}`)); err != nil {
			return err
		}
		a, err := request(ctx, "DELETE", path, asJSON, asJSON, []byte(`{"gracePeriodSeconds":0}`))
		if err != nil || a.code == 404 {
			return err
		}
		if r.name == "namespaces" {
			_, err = request(ctx, "PUT", path+"/finalize", asJSON, asJSON, encode(map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name}}))
		}
		if err == nil {
			err = fmt.Errorf("%s", a)
		}
		return err
	})
}

func signingRequest(t *testing.T) string {
	return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: stubRequest(t)}))
}

func stubRequest(t *testing.T) []byte {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok(t, err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "x"}}, key)
	ok(t, err)
	return der
}

// trustBundle is an authority as PEM, in quotes.
func trustBundle(t *testing.T) string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, IsCA: true, BasicConstraintsValid: true, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	ok(t, err)
	return string(encode(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))))
}

// authority is a certificate for fields that want one.
const authority = `-----BEGIN CERTIFICATE-----
MIIBbjCCARWgAwIBAgIUZAWeGI3mOZ1rs47tpUiuxXM8ji0wCgYIKoZIzj0EAwIw
DDEKMAgGA1UEAwwBeDAgFw0yNjExMjMwNDUzMTVaGA8yMTI2MTAzMDA0NTMxNVow
DDEKMAgGA1UEAwwBeDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABN0kFrmvbTk5
3d4b2gs/nic40K9lfq9JNdVzVOcU0Sc6ROzHHaxw0LT7Y3tG+NZTFbJkd+czIn2V
Gu0sA/yAA0SjUzBRMB0GA1UdDgQWBBQevc5PNrKMgjCxxeudr39bHtGcyTAfBgNV
HSMEGDAWgBQevc5PNrKMgjCxxeudr39bHtGcyTAPBgNVHRMBAf8EBTADAQH/MAoG
CCqGSM49BAMCA0cAMEQCIG5/un1xIwofSK1t0zn9TwqWjb/hCbMGtF73Fc1KnyjS
AiArIcRtfz1oRf7rNq5Nv7Q05lYPgojqRvGSWYPjIf+1Ig==
-----END CERTIFICATE-----
`
