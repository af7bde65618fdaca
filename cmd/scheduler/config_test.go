package scheduler

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/orlop-io/orlop/cmd/elected"
)

const head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"

func TestConfigRefuses(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"another version", "apiVersion: kubescheduler.config.k8s.io/v1beta3\nkind: KubeSchedulerConfiguration\n", `for version "kubescheduler.config.k8s.io/v1beta3"`},
		{"an unknown field", head + "podPatience: 3\n", `unknown field "podPatience"`},
		{"an unknown argument", head + "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {mood: good}}]}]\n", `profiles[0].pluginConfig[0]: Invalid value: "NodeResourcesFit": error unmarshaling JSON: while decoding JSON: json: unknown field "mood"`},
		{"extenders", head + "extenders: [{urlPrefix: 'http://x'}]\n", "extenders: Forbidden: not supported by this scheduler"},
		{"a point that is not a choice", head + "profiles: [{plugins: {permit: {enabled: [{name: Mine}]}}}]\n", "profiles[0].plugins.permit: Forbidden"},
		{"a plugin of nobody", head + "profiles: [{plugins: {score: {enabled: [{name: Mine}]}}}]\n", `profiles[0].plugins.score.enabled[0]: Not found: "Mine"`},
		{"a plugin that is not built", head + "profiles: [{plugins: {filter: {enabled: [{name: DynamicResources}]}}}]\n", "DynamicResources: not supported by this scheduler"},
		{"a plugin that must be", head + "profiles: [{plugins: {multiPoint: {disabled: [{name: DefaultBinder}]}}}]\n", "DefaultBinder: not supported by this scheduler"},
		{"arguments of nobody", head + "profiles: [{pluginConfig: [{name: VolumeBinding, args: {bindTimeoutSeconds: 3}}]}]\n", "takes no arguments of the plugin VolumeBinding"},
		{"two of a name", head + "profiles: [{schedulerName: a}, {schedulerName: a}]\n", `profiles[1].schedulerName: Duplicate value: "a"`},
		{"two, one without a name", head + "profiles: [{schedulerName: a}, {}]\n", "profiles[1].schedulerName: Required value"},
		{"more than all nodes", head + "percentageOfNodesToScore: 101\n", "percentageOfNodesToScore: Invalid value: 101: not in valid range [0-100]"},
		{"a pause that shrinks", head + "podInitialBackoffSeconds: 5\npodMaxBackoffSeconds: 2\n", "podMaxBackoffSeconds: Invalid value: 2"},
		{"an unsorted shape", head + "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: RequestedToCapacityRatio, requestedToCapacityRatio: {shape: [{utilization: 50, score: 1}, {utilization: 20, score: 3}]}}}}]}]\n",
			"utilization values must be sorted"},
		{"a spread of no kind", head + "profiles: [{pluginConfig: [{name: PodTopologySpread, args: {defaultingType: List, defaultConstraints: [{maxSkew: 1, topologyKey: zone}]}}]}]\n",
			`defaultConstraints[0].whenUnsatisfiable "": want DoNotSchedule or ScheduleAnyway`},
		{"an affinity that no node has", head + "profiles: [{pluginConfig: [{name: NodeAffinity, args: {addedAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: []}}}}]}]\n",
			"must have at least one node selector term"},
	} {
		_, _, err := parseConfig([]byte(tc.text))
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
}

func TestConfig(t *testing.T) {
	file, cfg, err := parseConfig([]byte(head + `
leaderElection: {leaderElect: false, leaseDuration: 20s}
clientConnection: {kubeconfig: /from/file, qps: 7}
podInitialBackoffSeconds: 2
percentageOfNodesToScore: 40
profiles:
- schedulerName: default-scheduler
- schedulerName: packer
  percentageOfNodesToScore: 30
  plugins:
    score: {disabled: [{name: ImageLocality}], enabled: [{name: NodeAffinity, weight: 9}]}
    filter: {disabled: [{name: TaintToleration}]}
    postFilter: {disabled: [{name: '*'}]}
  pluginConfig:
  - {name: NodeResourcesFit, args: {ignoredResourceGroups: [example.com], scoringStrategy: {type: MostAllocated, resources: [{name: cpu, weight: 3}]}}}
`))
	if err != nil {
		t.Fatal(err)
	}
	p, d := cfg.Profiles["packer"], cfg.Profiles["default-scheduler"]
	if p.percentage != 30 || d.percentage != 40 || cfg.FirstBackoff != 2*time.Second || cfg.LastBackoff != 10*time.Second {
		t.Errorf("%+v, %+v, %v", p, d, cfg)
	}
	if p.weights[nodeAffinity] != 9 || p.weights[imageLocality] != 0 || p.weights[taintToleration] != 3 || p.filters[taintToleration] || !p.filters[nodePorts] || p.preempts {
		t.Errorf("the packer: %+v", p)
	}
	if !p.ignored("example.com/gpu") || p.ignored("example.com.au/gpu") || p.strategy.weights[corev1.ResourceCPU] != 3 || p.strategy.score(30, 100) != 30 {
		t.Errorf("the packer's arguments: %+v", p)
	}
	if !d.preempts || !d.filters[taintToleration] || d.weights[imageLocality] != 1 {
		t.Errorf("the other profile changed too: %+v", d)
	}
	e := elected.Config{LeaderElect: true, LeaseDuration: time.Second, Kubeconfig: "/from/flag"}
	apply(file, &e, func(flag string) bool { return flag == "kubeconfig" })
	if e.LeaderElect || e.LeaseDuration != 20*time.Second || e.Kubeconfig != "/from/flag" || e.QPS != 7 {
		t.Errorf("%+v", e)
	}
}

func TestShape(t *testing.T) {
	score := shaped([]point{{0, 0}, {50, 100}, {100, 20}})
	for used, want := range map[int64]int64{0: 0, 25: 50, 50: 100, 75: 60, 100: 20, 200: 20} {
		if got := score(used, 100); got != want {
			t.Errorf("%d%% used: %d, want %d", used, got, want)
		}
	}
}

// Two profiles place the same pod on the same cluster differently.
func TestProfilesDiffer(t *testing.T) {
	_, cfg, err := parseConfig([]byte(head + `
profiles:
- schedulerName: default-scheduler
- schedulerName: packer
  pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: MostAllocated}}}]
  plugins: {score: {disabled: [{name: NodeResourcesBalancedAllocation}]}}
- schedulerName: reckless
  plugins: {multiPoint: {disabled: [{name: '*'}]}}
- schedulerName: zoned
  pluginConfig: [{name: NodeAffinity, args: {addedAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: zone, operator: In, values: [z]}]}]}}}}]
`))
	if err != nil {
		t.Fatal(err)
	}
	nodes := []*corev1.Node{testNode("a"), testNode("b", func(n *corev1.Node) { n.Labels["zone"] = "z" })}
	for name, want := range map[string]string{"default-scheduler": "b", "packer": "a", "zoned": "b"} {
		c := clusterOf(nodes, []*corev1.Pod{testPod("x", cpu("500m"), on("a"), labelled("x"))})
		if v, _ := c.place(&Request{Pod: NewPod(testPod("p", cpu("500m"))), Profile: cfg.Profiles[name]}); v.Node != want {
			t.Errorf("%s chooses %q (%s), want %s", name, v.Node, v.Message, want)
		}
	}
	nodes[0].Spec.Unschedulable, nodes[0].Status.Allocatable[corev1.ResourceCPU] = true, resource.MustParse("0")
	if v, _ := clusterOf(nodes[:1], nil).place(&Request{Pod: NewPod(testPod("p", cpu("5"))), Profile: cfg.Profiles["reckless"]}); v.Node != "a" {
		t.Errorf("without any filter: %+v", v)
	}
}

// Each plugin that rules nodes out can be turned off and on again by its name.
func TestPluginsAreChosenByName(t *testing.T) {
	for _, name := range filterPlugins() {
		for text, want := range map[string]bool{
			"{filter: {disabled: [{name: " + name + "}]}}":                                                        false,
			"{multiPoint: {disabled: [{name: " + name + "}]}}":                                                    false,
			"{multiPoint: {disabled: [{name: '*'}]}, filter: {enabled: [{name: " + name + "}]}}":                  true,
			"{filter: {disabled: [{name: '*'}], enabled: [{name: " + name + "}]}}":                                true,
			"{multiPoint: {disabled: [{name: '*'}], enabled: [{name: " + name + "}, {name: DefaultPreemption}]}}": true,
		} {
			_, cfg, err := parseConfig([]byte(head + "profiles: [{plugins: " + text + "}]\n"))
			if err != nil || cfg.Profiles["default-scheduler"].filters[name] != want {
				t.Errorf("%s: %v, %v", text, cfg.Profiles["default-scheduler"], err)
			}
		}
	}
}
