package scheduler

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	configv1 "k8s.io/kube-scheduler/config/v1"
	"k8s.io/utils/ptr"
)

// profileOf reads one profile of the configuration.
func profileOf(name string, in *configv1.KubeSchedulerProfile, path *field.Path) (*Profile, field.ErrorList) {
	p := DefaultProfile(name)
	errs := checkPercentage(in.PercentageOfNodesToScore, path.Child("percentageOfNodesToScore"))
	p.percentage = int(ptr.Deref(in.PercentageOfNodesToScore, 0))
	if in.Plugins != nil {
		errs = append(errs, p.choose(in.Plugins, path.Child("plugins"))...)
	}
	seen := map[string]bool{}
	for i := range in.PluginConfig {
		c, at := &in.PluginConfig[i], path.Child("pluginConfig").Index(i)
		if seen[c.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		}
		seen[c.Name] = true
		if err := p.configure(c.Name, c.Args.Raw); err != nil {
			errs = append(errs, field.Invalid(at, c.Name, err.Error()))
		}
	}
	return p, errs
}

// fixedPlugins cannot be turned off, and absentPlugins not on: there is nothing to choose.
func fixedPlugins() []string { return []string{"PrioritySort", "SchedulingGates", defaultBinder} }

func absentPlugins() []string {
	return []string{"DynamicResources"}
}

func chosenPlugins() []string {
	return append(filterPlugins(), balanced, imageLocality, defaultPreemption)
}

// choose turns plugins on and off. Where decisions are not made, nothing can be chosen.
func (p *Profile) choose(in *configv1.Plugins, path *field.Path) (errs field.ErrorList) {
	fixed := map[string]configv1.PluginSet{
		"preEnqueue": in.PreEnqueue, "queueSort": in.QueueSort, "reserve": in.Reserve, "permit": in.Permit, "preBind": in.PreBind, "bind": in.Bind, "postBind": in.PostBind,
		"placementGenerate": in.PlacementGenerate, "placementScore": in.PlacementScore, "podGroupPostFilter": in.PodGroupPostFilter,
		"preFilter": in.PreFilter, "preScore": in.PreScore,
	}
	for _, name := range slices.Sorted(maps.Keys(fixed)) {
		if set := fixed[name]; len(set.Enabled)+len(set.Disabled) > 0 {
			errs = append(errs, field.Forbidden(path.Child(name), "not supported by this scheduler"))
		}
	}
	defaults := DefaultProfile(p.Name)
	off := func(point string, disable func(name string)) func(configv1.PluginSet) {
		return func(set configv1.PluginSet) {
			for i, plugin := range set.Disabled {
				if plugin.Name != "*" {
					errs = append(errs, refuse(plugin.Name, absentPlugins(), path.Child(point, "disabled").Index(i))...)
				}
				disable(plugin.Name)
			}
		}
	}
	on := func(point string, enable func(plugin configv1.Plugin)) func(configv1.PluginSet) {
		return func(set configv1.PluginSet) {
			for i, plugin := range set.Enabled {
				errs = append(errs, refuse(plugin.Name, fixedPlugins(), path.Child(point, "enabled").Index(i))...)
				enable(plugin)
			}
		}
	}
	matches := func(pattern, name string) bool { return pattern == "*" || pattern == name }
	noFilter := func(name string) {
		maps.DeleteFunc(p.filters, func(k string, _ bool) bool { return matches(name, k) })
	}
	noScore := func(name string) {
		maps.DeleteFunc(p.weights, func(k string, _ int64) bool { return matches(name, k) })
	}
	noPreemption := func(name string) { p.preempts = p.preempts && !matches(name, defaultPreemption) }
	filter := func(plugin configv1.Plugin) {
		if defaults.filters[plugin.Name] {
			p.filters[plugin.Name] = true
		}
	}
	score := func(plugin configv1.Plugin) {
		if weight, scores := defaults.weights[plugin.Name]; scores {
			p.weights[plugin.Name] = int64(ptr.Deref(plugin.Weight, int32(weight)))
		}
	}
	preempt := func(plugin configv1.Plugin) { p.preempts = p.preempts || plugin.Name == defaultPreemption }
	// What is said of one point goes before what is said of all.
	off("multiPoint", func(name string) { noFilter(name); noScore(name); noPreemption(name) })(in.MultiPoint)
	on("multiPoint", func(plugin configv1.Plugin) { filter(plugin); score(plugin); preempt(plugin) })(in.MultiPoint)
	off("filter", noFilter)(in.Filter)
	on("filter", filter)(in.Filter)
	off("score", noScore)(in.Score)
	on("score", score)(in.Score)
	off("postFilter", noPreemption)(in.PostFilter)
	on("postFilter", preempt)(in.PostFilter)
	return errs
}

// refuse complains of a plugin that is neither chosen here nor one of those that need no choice.
func refuse(name string, needless []string, path *field.Path) field.ErrorList {
	switch {
	case slices.Contains(chosenPlugins(), name), slices.Contains(needless, name):
		return nil
	case slices.Contains(fixedPlugins(), name), slices.Contains(absentPlugins(), name):
		return field.ErrorList{field.Forbidden(path, name+": not supported by this scheduler")}
	}
	return field.ErrorList{field.NotFound(path, name)}
}

// configure reads a plugin's arguments.
func (p *Profile) configure(plugin string, raw []byte) error {
	switch plugin {
	case defaultPreemption:
		args, err := strictly[configv1.DefaultPreemptionArgs](raw, plugin+"Args")
		if err != nil {
			return err
		}
		p.candidatesPercent, p.candidatesMin = int(ptr.Deref(args.MinCandidateNodesPercentage, 10)), int(ptr.Deref(args.MinCandidateNodesAbsolute, 100))
		if p.candidatesPercent < 0 || p.candidatesPercent > 100 || p.candidatesMin < 0 || p.candidatesPercent+p.candidatesMin == 0 {
			return fmt.Errorf("minCandidateNodesPercentage must be in [0, 100], and with minCandidateNodesAbsolute leave candidates")
		}
		return nil
	case interPodAffinity:
		args, err := strictly[configv1.InterPodAffinityArgs](raw, plugin+"Args")
		if err != nil {
			return err
		}
		p.hardAffinity, p.deafToOthers = int64(ptr.Deref(args.HardPodAffinityWeight, 1)), args.IgnorePreferredTermsOfExistingPods
		if p.hardAffinity < 0 || p.hardAffinity > 100 {
			return fmt.Errorf("hardPodAffinityWeight: not in valid range [0, 100]")
		}
		return nil
	case resourcesFit:
		return p.configureFit(raw)
	case topologySpread:
		return p.configureSpread(raw)
	case balanced:
		args, err := strictly[configv1.NodeResourcesBalancedAllocationArgs](raw, plugin+"Args")
		if err != nil {
			return err
		}
		if len(args.Resources) > 0 {
			p.balance = nil
		}
		for _, r := range args.Resources {
			if r.Weight > 1 {
				return fmt.Errorf("resources[%s].weight must be 1", r.Name)
			}
			p.balance = append(p.balance, corev1.ResourceName(r.Name))
		}
		return nil
	case nodeAffinity:
		return p.configureAffinity(raw)
	}
	return fmt.Errorf("this scheduler takes no arguments of the plugin %s", plugin)
}

func (p *Profile) configureFit(raw []byte) error {
	args, err := strictly[configv1.NodeResourcesFitArgs](raw, resourcesFit+"Args")
	if err != nil {
		return err
	}
	p.ignores = args.IgnoredResources
	for _, group := range args.IgnoredResourceGroups {
		p.ignoredGroups = append(p.ignoredGroups, group+"/")
	}
	in := args.ScoringStrategy
	if in == nil {
		return nil
	}
	s := strategy{weights: map[corev1.ResourceName]int64{}}
	for _, r := range in.Resources {
		weight := max(r.Weight, 1)
		if weight > 100 || r.Weight < 0 {
			return fmt.Errorf("scoringStrategy.resources[%s].weight: not in valid range [1, 100]", r.Name)
		}
		s.weights[corev1.ResourceName(r.Name)] = weight
	}
	if len(s.weights) == 0 {
		s.weights = evenly()
	}
	switch in.Type {
	case configv1.LeastAllocated, "":
		s.score = leastAllocated
	case configv1.MostAllocated:
		s.score = mostAllocated
	case configv1.RequestedToCapacityRatio:
		points, err := pointsOf(in.RequestedToCapacityRatio)
		if err != nil {
			return err
		}
		s.score, s.drawn = shaped(points), true
	default:
		return fmt.Errorf("scoringStrategy.type %q: want LeastAllocated, MostAllocated or RequestedToCapacityRatio", in.Type)
	}
	p.strategy = s
	return nil
}

// pointsOf reads a shape, whose scores go to 10.
func pointsOf(in *configv1.RequestedToCapacityRatioParam) ([]point, error) {
	if in == nil || len(in.Shape) == 0 {
		return nil, fmt.Errorf("scoringStrategy.requestedToCapacityRatio.shape: at least one point must be specified")
	}
	var points []point
	for i, s := range in.Shape {
		if s.Utilization < 0 || s.Utilization > 100 || s.Score < 0 || s.Score > 10 || i > 0 && s.Utilization <= in.Shape[i-1].Utilization {
			return nil, fmt.Errorf("scoringStrategy.requestedToCapacityRatio.shape[%d]: utilization values must be sorted in increasing order, from 0 to 100, with scores from 0 to 10", i)
		}
		points = append(points, point{int64(s.Utilization), int64(s.Score) * best / 10})
	}
	return points, nil
}

func (p *Profile) configureSpread(raw []byte) error {
	args, err := strictly[configv1.PodTopologySpreadArgs](raw, topologySpread+"Args")
	if err != nil {
		return err
	}
	switch args.DefaultingType {
	case configv1.SystemDefaulting, "":
		if len(args.DefaultConstraints) > 0 {
			return fmt.Errorf("defaultConstraints: when .defaultingType is System, must be empty")
		}
		return nil
	case configv1.ListDefaulting:
	default:
		return fmt.Errorf("defaultingType %q: want System or List", args.DefaultingType)
	}
	for i, c := range args.DefaultConstraints {
		if c.LabelSelector != nil || c.MaxSkew <= 0 || c.TopologyKey == "" {
			return fmt.Errorf("defaultConstraints[%d]: needs maxSkew and topologyKey, and constraint must not define a selector, as they deduced for each pod", i)
		}
		if w := c.WhenUnsatisfiable; w != corev1.DoNotSchedule && w != corev1.ScheduleAnyway {
			return fmt.Errorf("defaultConstraints[%d].whenUnsatisfiable %q: want DoNotSchedule or ScheduleAnyway", i, w)
		}
	}
	p.spread, p.softSpread = args.DefaultConstraints, false
	return nil
}

func (p *Profile) configureAffinity(raw []byte) error {
	args, err := strictly[configv1.NodeAffinityArgs](raw, nodeAffinity+"Args")
	if err != nil || args.AddedAffinity == nil {
		return err
	}
	if required := args.AddedAffinity.RequiredDuringSchedulingIgnoredDuringExecution; required != nil {
		if len(required.NodeSelectorTerms) == 0 { // it matches no node
			return errors.New("addedAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: must have at least one node selector term")
		}
		if p.added, err = nodeaffinity.NewNodeSelector(required); err != nil {
			return err
		}
	}
	if preferred := args.AddedAffinity.PreferredDuringSchedulingIgnoredDuringExecution; len(preferred) > 0 {
		p.addedPreferred, err = nodeaffinity.NewPreferredSchedulingTerms(preferred)
	}
	return err
}
