package validation

import (
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
)

const aLevel = `{apiVersion: flowcontrol.apiserver.k8s.io/v1, kind: PriorityLevelConfiguration, metadata: {name: x}, spec: {type: Limited,
  limited: {nominalConcurrencyShares: 3, limitResponse: {type: Queue, queuing: {queues: 16, handSize: 4}}}}}`

func TestPriorityLevel(t *testing.T) {
	l := "spec.limited."
	testCreate(t, aLevel, []edit{
		{"type", "type: Limited", "type: Some", `spec.type: Unsupported value: "Some": supported values: "Exempt", "Limited"`},
		{"another exempt", "type: Limited", "type: Exempt", "spec.type: Invalid value: \"Exempt\": type must be 'Exempt' if and only if `name` is 'exempt'\nspec.limited: Forbidden"},
		{"not limited", "limited: {nominalConcurrencyShares: 3, limitResponse: {type: Queue, queuing: {queues: 16, handSize: 4}}}", "exempt: {}", "spec.exempt: Forbidden"},
		{"no limit", "limited: {nominalConcurrencyShares: 3, limitResponse: {type: Queue, queuing: {queues: 16, handSize: 4}}}", "", "spec.limited: Required value"},
		{"shares", "nominalConcurrencyShares: 3", "nominalConcurrencyShares: -3", l + "nominalConcurrencyShares: Invalid value: -3: must be a non-negative integer"},
		{"lendable", "nominalConcurrencyShares: 3", "lendablePercent: 101", l + "lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive"},
		{"borrowing", "nominalConcurrencyShares: 3", "borrowingLimitPercent: -1", l + "borrowingLimitPercent: Invalid value: -1: if specified, must be a non-negative integer"},
		{"response", "type: Queue", "type: Shout", l + `limitResponse.type: Unsupported value: "Shout": supported values: "Queue", "Reject"`},
		{"rejecting queues", "type: Queue", "type: Reject", l + "limitResponse.queuing: Forbidden"},
		{"no queues", ", queuing: {queues: 16, handSize: 4}", "", l + "limitResponse.queuing: Required value"},
		{"queues", "queues: 16", "queues: -1", l + "limitResponse.queuing.queues: Invalid value: -1: must be positive"},
		{"many queues", "queues: 16", "queues: 10000001", l + "limitResponse.queuing.queues: Invalid value: 10000001: must not be greater than 10000000"},
		{"hand", "handSize: 4", "handSize: 17", l + "limitResponse.queuing.handSize: Invalid value: 17: should not be greater than queues (16)"},
		{"entropy", "queues: 16, handSize: 4", "queues: 512, handSize: 8", l + "limitResponse.queuing.handSize: Invalid value: 8: required entropy bits of deckSize 512 and handSize 8 should not be greater than 60"},
		{"fixed", "name: x", "name: catch-all", "spec of 'catch-all' must equal the fixed value"},
	})
	for _, fixed := range bootstrap.MandatoryPriorityLevelConfigurations {
		compare(t, Create(fixed.DeepCopy()), "")
	}
	for _, l := range bootstrap.SuggestedPriorityLevelConfigurations {
		compare(t, Create(l.DeepCopy()), "")
	}
}

const aSchema = `{apiVersion: flowcontrol.apiserver.k8s.io/v1, kind: FlowSchema, metadata: {name: x}, spec: {priorityLevelConfiguration: {name: l}, matchingPrecedence: 5,
  distinguisherMethod: {type: ByUser}, rules: [{subjects: [{kind: ServiceAccount, serviceAccount: {name: a, namespace: ns}}],
  resourceRules: [{verbs: [get], apiGroups: [""], resources: [pods], namespaces: [ns]}], nonResourceRules: [{verbs: ["*"], nonResourceURLs: [/healthz, /a/*]}]}]}}`

func TestFlowSchema(t *testing.T) {
	r := "spec.rules[0]."
	s, res, non := r+"subjects[0].", r+"resourceRules[0].", r+"nonResourceRules[0]."
	testCreate(t, aSchema, []edit{
		{"precedence", "matchingPrecedence: 5", "matchingPrecedence: -1", "spec.matchingPrecedence: Invalid value: -1: must be a positive value"},
		{"late", "matchingPrecedence: 5", "matchingPrecedence: 10001", "spec.matchingPrecedence: Invalid value: 10001: must not be greater than 10000"},
		{"first", "matchingPrecedence: 5", "matchingPrecedence: 1", "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1"},
		{"method", "type: ByUser", "type: ByMood", `spec.distinguisherMethod.type: Unsupported value: "ByMood": supported values: "ByNamespace", "ByUser"`},
		{"no level", "{name: l}", "{}", "spec.priorityLevelConfiguration.name: Required value: must reference a priority level"},
		{"level", "{name: l}", "{name: L}", `spec.priorityLevelConfiguration.name: Invalid value: "L"`},
		{"no subjects", "[{kind: ServiceAccount, serviceAccount: {name: a, namespace: ns}}]", "[]", r + "subjects: Required value: subjects must contain at least one value"},
		{"subject's kind", "kind: ServiceAccount", "kind: Robot", s + `kind: Unsupported value: "Robot": supported values: "Group", "ServiceAccount", "User"`},
		{"another subject", "kind: ServiceAccount", "kind: User", s + "serviceAccount: Forbidden: serviceAccount is forbidden when subject kind is not 'ServiceAccount'\n" + s + "user: Required value: user is required when subject kind is 'User'"},
		{"account's name", "{name: a, ", "{", s + "serviceAccount.name: Required value"},
		{"account's namespace", "name: a, namespace: ns", "name: a", s + "serviceAccount.namespace: Required value: must specify namespace for service account"},
		{"no rules", `resourceRules: [{verbs: [get], apiGroups: [""], resources: [pods], namespaces: [ns]}], nonResourceRules: [{verbs: ["*"], nonResourceURLs: [/healthz, /a/*]}]`, "", "spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty"},
		{"no verbs", "verbs: [get]", "verbs: []", res + "verbs: Required value: verbs must contain at least one value"},
		{"verb", "verbs: [get]", "verbs: [fetch]", res + `verbs: Unsupported value: ["fetch"]: supported values: "connect"`},
		{"all verbs and one", "verbs: [get]", "verbs: [get, '*']", res + `verbs: Invalid value: ["get","*"]: if '*' is present, must not specify other verbs`},
		{"no groups", `apiGroups: [""], `, "", res + "apiGroups: Required value: resource rules must supply at least one api group"},
		{"no resources", "resources: [pods], ", "", res + "resources: Required value: resource rules must supply at least one resource"},
		{"no namespaces", "namespaces: [ns]", "namespaces: []", res + "namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace"},
		{"cluster", "namespaces: [ns]", "clusterScope: true", ""},
		{"all namespaces and one", "namespaces: [ns]", "namespaces: [ns, '*']", res + `namespaces: Invalid value: ["ns","*"]: if '*' is present, must not specify other namespaces`},
		{"namespace", "namespaces: [ns]", "namespaces: [NS]", res + `namespaces[0]: Invalid value: "NS"`},
		{"no urls", "[/healthz, /a/*]", "[]", non + "nonResourceURLs: Required value: nonResourceURLs must contain at least one value"},
		{"relative url", "[/healthz, /a/*]", "[healthz]", non + `nonResourceURLs[0]: Invalid value: "healthz": must start with slash`},
		{"wildcard", "[/healthz, /a/*]", "[/a*]", non + `nonResourceURLs[0]: Invalid value: "/a*": wildcard can only do suffix matching`},
		{"fixed", "name: x", "name: exempt", "spec of 'exempt' must equal the fixed value"},
	})
	for _, s := range append(append([]*flowcontrolv1.FlowSchema{}, bootstrap.MandatoryFlowSchemas...), bootstrap.SuggestedFlowSchemas...) {
		compare(t, Create(s.DeepCopy()), "")
	}
}

func TestBindingsOfRoles(t *testing.T) {
	const binding = `{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: x, namespace: d}, roleRef: {kind: Role, name: r}, subjects: [{kind: ServiceAccount, name: a}, {kind: User, name: u}]}`
	testCreate(t, binding, []edit{
		{"kind", "kind: Role,", "kind: Rule,", `roleRef.kind: Unsupported value: "Rule": supported values: "Role", "ClusterRole"`},
		{"group", "roleRef: {", "roleRef: {apiGroup: g, ", `roleRef.apiGroup: Unsupported value: "g": supported values: "rbac.authorization.k8s.io"`},
		{"no name", "name: r}", "name: ''}", "roleRef.name: Required value"},
		{"name", "name: r}", "name: a/b}", `roleRef.name: Invalid value: "a/b": may not contain '/'`},
		{"subject's kind", "kind: User", "kind: Robot", `subjects[1].kind: Unsupported value: "Robot": supported values: "ServiceAccount", "User", "Group"`},
		{"subject's group", "kind: User", "kind: User, apiGroup: g", `subjects[1].apiGroup: Unsupported value: "g"`},
		{"account's group", "kind: ServiceAccount", "kind: ServiceAccount, apiGroup: g", `subjects[0].apiGroup: Unsupported value: "g"`},
		{"account's name", "name: a}", "name: A}", `subjects[0].name: Invalid value: "A"`},
		{"no subject's name", "name: u}", "name: ''}", "subjects[1].name: Required value"},
	})
	compare(t, Create(decode(t, strings.NewReplacer("RoleBinding", "ClusterRoleBinding", "kind: Role,", "kind: ClusterRole,", ", namespace: d", "").Replace(binding))), "subjects[0].namespace: Required value")
	const role = `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: x}, rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]}`
	testCreate(t, role, []edit{
		{"no groups", `apiGroups: [""], `, "", "rules[0].apiGroups: Required value: resource rules must supply at least one api group"},
		{"no resources", "resources: [pods], ", "", "rules[0].resources: Required value: resource rules must supply at least one resource"},
		{"both", "resources: [pods]", "nonResourceURLs: [/]", "rules[0].nonResourceURLs: Invalid value: [\"/\"]: rules cannot apply to both regular resources and non-resource URLs"},
		{"aggregation", "rules: [", "aggregationRule: {}, rules: [", "aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil"},
	})
}

func TestStorageKinds(t *testing.T) {
	const class = `{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: x}, provisioner: a/b, parameters: {k: v}, allowedTopologies: [{matchLabelExpressions: [{key: zone, values: [a]}]}]}`
	topology := "allowedTopologies[0].matchLabelExpressions[0]."
	testCreate(t, class, []edit{
		{"provisioner", "a/b", "a//b", `provisioner: Invalid value: "a//b"`},
		{"parameter", "{k: v}", "{'': v}", `parameters: Invalid value: "": field can not be empty.`},
		{"reclaim", "provisioner", "reclaimPolicy: Keep, provisioner", `reclaimPolicy: Unsupported value: "Keep": supported values: "Delete", "Retain"`},
		{"binding", "provisioner", "volumeBindingMode: Late, provisioner", `volumeBindingMode: Unsupported value: "Late": supported values: "Immediate", "WaitForFirstConsumer"`},
		{"topology's key", "key: zone", "key: '-'", topology + `key: Invalid value: "-"`},
		{"topology's values", "values: [a]", "values: []", topology + "values: Required value"},
		{"topology's value twice", "values: [a]", "values: [a, a]", topology + `values[1]: Duplicate value: "a"`},
	})
	testUpdate(t, class, []edit{
		{"provisioner", "a/b", "a/c", "provisioner: Invalid value: null: field is immutable"},
		{"parameters", "{k: v}", "{k: w}", "parameters: Invalid value: null: field is immutable"},
		{"growth", "provisioner", "allowVolumeExpansion: true, provisioner", ""},
	})
	const driver = `{apiVersion: storage.k8s.io/v1, kind: CSIDriver, metadata: {name: a.b}, spec: {tokenRequests: [{audience: a}]}}`
	testCreate(t, driver, []edit{
		{"name", "name: a.b", "name: a_b", `name: Invalid value: "a_b"`},
		{"fs group", "spec: {", "spec: {fsGroupPolicy: Any, ", `spec.fsGroupPolicy: Unsupported value: "Any": supported values: "File", "None", "ReadWriteOnceWithFSType"`},
		{"modes", "spec: {", "spec: {volumeLifecycleModes: [Long], ", `spec.volumeLifecycleModes: Unsupported value: "Long": supported values: "Ephemeral", "Persistent"`},
		{"audience twice", "[{audience: a}]", "[{audience: a}, {audience: a}]", `spec.tokenRequests[1].audience: Duplicate value: "a"`},
		{"lifetime", "{audience: a}", "{audience: a, expirationSeconds: 599}", "spec.tokenRequests[0].expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes"},
		{"secrets without tokens", "tokenRequests: [{audience: a}]", "serviceAccountTokenInSecrets: true", "spec.serviceAccountTokenInSecrets: Invalid value: true: must be unset when no tokenRequests are configured"},
		{"updates", "spec: {", "spec: {nodeAllocatableUpdatePeriodSeconds: 9, ", "spec.nodeAllocatableUpdatePeriodSeconds: Invalid value: 9: must be greater than or equal to 10 seconds"},
	})
	testUpdate(t, driver, []edit{
		{"attach", "spec: {", "spec: {attachRequired: false, ", "spec.attachedRequired: Invalid value: false: field is immutable"},
		{"modes", "spec: {", "spec: {volumeLifecycleModes: [Ephemeral], ", "spec.volumeLifecycleModes: Invalid value: [\"Ephemeral\"]: field is immutable"},
		{"capacity", "spec: {", "spec: {storageCapacity: true, ", ""},
	})
	const node = `{apiVersion: storage.k8s.io/v1, kind: CSINode, metadata: {name: x}, spec: {drivers: [{name: a.b, nodeID: i, topologyKeys: [zone], allocatable: {count: 3}}]}}`
	d := "spec.drivers[0]."
	testCreate(t, node, []edit{
		{"no id", "nodeID: i, ", "nodeID: '', ", d + "nodeID: Required value"},
		{"long id", "nodeID: i", "nodeID: " + strings.Repeat("i", 257), "must be 256 characters or less"},
		{"count", "count: 3", "count: -3", d + "allocatable.count: Invalid value: -3: must be greater than or equal to 0"},
		{"key", "[zone]", "['-']", d + `topologyKeys: Invalid value: "-"`},
		{"key twice", "[zone]", "[zone, zone]", d + `topologyKeys: Duplicate value: "zone"`},
		{"driver twice", "drivers: [", "drivers: [{name: a.b, nodeID: j, topologyKeys: []},", `spec.drivers[1].name: Duplicate value: "a.b"`},
	})
	testUpdate(t, node, []edit{
		{"count", "count: 3", "count: 4", ""},
		{"identity", "nodeID: i", "nodeID: j", "spec.drivers: Invalid value"},
	})
	const capacity = `{apiVersion: storage.k8s.io/v1, kind: CSIStorageCapacity, metadata: {name: x, namespace: d}, storageClassName: c, capacity: 1Gi}`
	testCreate(t, capacity, []edit{
		{"no class", "storageClassName: c, ", "storageClassName: '', ", "storageClassName: Required value"},
		{"capacity", "capacity: 1Gi", "capacity: -1", `capacity: Invalid value: "-1": must be greater than or equal to 0`},
		{"largest", "capacity: 1Gi", "maximumVolumeSize: -1", `maximumVolumeSize: Invalid value: "-1"`},
	})
	testUpdate(t, capacity, []edit{{"class", "Name: c,", "Name: e,", `storageClassName: Invalid value: "e": field is immutable`}, {"capacity", "1Gi", "2Gi", ""}})
	const attachment = `{apiVersion: storage.k8s.io/v1, kind: VolumeAttachment, metadata: {name: x}, spec: {attacher: a.b, nodeName: node, source: {persistentVolumeName: pv}}}`
	testCreate(t, attachment, []edit{
		{"no attacher", "attacher: a.b, ", "", "spec.attacher: Required value"},
		{"node", "nodeName: node", "nodeName: N_", `spec.nodeName: Invalid value: "N_"`},
		{"no source", "{persistentVolumeName: pv}", "{}", "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName"},
		{"empty source", "{persistentVolumeName: pv}", "{persistentVolumeName: ''}", "spec.source.persistentVolumeName: Required value: must specify non empty persistentVolumeName"},
		{"inline", "{persistentVolumeName: pv}", "{inlineVolumeSpec: {accessModes: [ReadWriteOnce]}}", "spec.source.inlineVolumeSpec.csi: Required value"},
	})
	testUpdate(t, attachment, []edit{{"node", "nodeName: node", "nodeName: other", "field is immutable"}})
	a := decode(t, attachment).(*storagev1.VolumeAttachment)
	now := a.DeepCopy()
	now.Status.AttachError = &storagev1.VolumeError{Message: strings.Repeat("x", 1025)}
	compare(t, UpdateStatus(now, a), "status.attachError.message: Too long: may not be more than 1024 bytes")
	testUpdate(t, `{apiVersion: storage.k8s.io/v1, kind: VolumeAttributesClass, metadata: {name: x}, driverName: a.b, parameters: {k: v}}`, []edit{
		{"driver", "a.b", "a.c", `driverName: Invalid value: "a.c": field is immutable`},
		{"parameters", "k: v", "k: w", "field is immutable"},
	})
}

func TestSigningRequestStatus(t *testing.T) {
	old := &certificatesv1.CertificateSigningRequest{}
	for _, tt := range []struct {
		name string
		now  certificatesv1.CertificateSigningRequestStatus
		want string
	}{
		{"not a certificate", certificatesv1.CertificateSigningRequestStatus{Certificate: []byte("x")}, `status.certificate: Invalid value: "<certificate data>": must contain at least one CERTIFICATE PEM block`},
		{"a key", certificatesv1.CertificateSigningRequestStatus{Certificate: []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")}, `only CERTIFICATE PEM blocks are allowed, found "PRIVATE KEY"`},
		{"undecided", certificatesv1.CertificateSigningRequestStatus{Conditions: []certificatesv1.CertificateSigningRequestCondition{{Type: "Failed", Status: "False"}}}, `status.conditions[0].status: Unsupported value: "False": supported values: "True"`},
		{"odd status", certificatesv1.CertificateSigningRequestStatus{Conditions: []certificatesv1.CertificateSigningRequestCondition{{Type: "Other", Status: "Maybe"}}}, `status.conditions[0].status: Unsupported value: "Maybe": supported values: "False", "True", "Unknown"`},
		{"no type", certificatesv1.CertificateSigningRequestStatus{Conditions: []certificatesv1.CertificateSigningRequestCondition{{Status: "True"}}}, "status.conditions[0].type: Required value"},
		{"both", certificatesv1.CertificateSigningRequestStatus{Conditions: []certificatesv1.CertificateSigningRequestCondition{{Type: "Approved", Status: "True"}, {Type: "Denied", Status: "True"}}}, "status.conditions"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			now := old.DeepCopy()
			now.Status = tt.now
			compare(t, UpdateStatus(now, old), tt.want)
		})
	}
}

func TestSignerNames(t *testing.T) {
	long := strings.Repeat("a.", 126) + "b"
	for name, want := range map[string]string{
		"example.com/a.b":            "",
		"example.com":                "must be a fully qualified domain and path of the form 'example.com/signer-name'",
		"example.com/a.B":            `spec.signerName: Invalid value: "a.B": validating label "B": a lowercase RFC 1123 subdomain`,
		long + "/" + long + long:     "spec.signerName: Too long: may not be more than 571 bytes",
		"kubernetes.io/legacy-known": "",
	} {
		got := signerName(name, field.NewPath("spec", "signerName")).ToAggregate()
		if want == "" && got != nil || want != "" && (got == nil || !strings.Contains(got.Error(), want)) {
			t.Errorf("%s: %v, want %s", name, got, want)
		}
	}
}
