package manifests

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"
)

// Annotations of static pods.
const (
	AnnConfigHash   = "kubernetes.io/config.hash"
	AnnConfigSource = "kubernetes.io/config.source"
	AnnConfigSeen   = "kubernetes.io/config.seen"
	AnnMirror       = "kubernetes.io/config.mirror"
)

// parse reads one manifest and gives the pod as it runs on node: named after it, with an identity
// made from its contents, so that a changed manifest is another pod.
func parse(text []byte, file, node string) (*v1.Pod, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, errors.New("manifest is empty")
	}
	p := &v1.Pod{}
	if err := yaml.UnmarshalStrict(text, p); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	if p.Kind != "Pod" || p.APIVersion != "v1" {
		return nil, fmt.Errorf("manifest holds %q of %q, not a Pod of v1", p.Kind, p.APIVersion)
	}
	p.TypeMeta = metav1.TypeMeta{} // as pods from the API server come
	p.Status = v1.PodStatus{Phase: v1.PodPending}
	if p.Namespace == "" {
		p.Namespace = metav1.NamespaceDefault
	}
	p.Name += "-" + node
	p.Spec.NodeName = node
	if err := check(p); err != nil {
		return nil, err
	}
	setDefaults(p)
	if p.UID == "" {
		uid, err := identity(p, file)
		if err != nil {
			return nil, err
		}
		p.UID = uid
	}
	annotations := map[string]string{}
	for k, v := range p.Annotations {
		annotations[k] = v
	}
	annotations[AnnConfigHash], annotations[AnnConfigSource] = string(p.UID), "file"
	p.Annotations = annotations
	tolerateExecution(p)
	return p, nil
}

// identity is a hash over the pod as given and where it runs from.
func identity(p *v1.Pod, file string) (types.UID, error) {
	text, err := json.Marshal(p)
	if err != nil {
		return "", fmt.Errorf("encode: %w", err)
	}
	h := md5.New() // an identity, not a protection; upstream's is 32 hex digits as well
	fmt.Fprintf(h, "host:%s file:%s ", p.Spec.NodeName, file)
	h.Write(text)
	return types.UID(hex.EncodeToString(h.Sum(nil))), nil
}

// tolerateExecution keeps static pods where they are: no taint can move them elsewhere.
func tolerateExecution(p *v1.Pod) {
	p.Spec.Tolerations = append(p.Spec.Tolerations, v1.Toleration{Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoExecute})
}

// check refuses what could not run. The API server is not there to do so.
func check(p *v1.Pod) error {
	var errs []error
	if bad := validation.IsDNS1123Subdomain(p.Name); len(bad) > 0 {
		errs = append(errs, fmt.Errorf("metadata.name %q: %s", p.Name, strings.Join(bad, "; ")))
	}
	if bad := validation.IsDNS1123Label(p.Namespace); len(bad) > 0 {
		errs = append(errs, fmt.Errorf("metadata.namespace %q: %s", p.Namespace, strings.Join(bad, "; ")))
	}
	if len(p.Spec.Containers) == 0 {
		errs = append(errs, errors.New("spec.containers: must not be empty"))
	}
	seen := map[string]bool{}
	names := func(field string, list []v1.Container) {
		for i := range list {
			c := &list[i]
			if bad := validation.IsDNS1123Label(c.Name); len(bad) > 0 {
				errs = append(errs, fmt.Errorf("%s[%d].name %q: %s", field, i, c.Name, strings.Join(bad, "; ")))
			}
			if seen[c.Name] {
				errs = append(errs, fmt.Errorf("%s[%d].name %q: used twice", field, i, c.Name))
			}
			if c.Image == "" {
				errs = append(errs, fmt.Errorf("%s[%d].image: must not be empty", field, i))
			}
			seen[c.Name] = true
		}
	}
	names("spec.initContainers", p.Spec.InitContainers)
	names("spec.containers", p.Spec.Containers)
	if len(p.Spec.EphemeralContainers) > 0 {
		errs = append(errs, errors.New("spec.ephemeralContainers: static pods cannot have any"))
	}
	if sa := p.Spec.ServiceAccountName; sa != "" {
		errs = append(errs, errors.New("spec.serviceAccountName: static pods cannot use a service account"))
	}
	volumes := map[string]bool{}
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		if v.ConfigMap != nil || v.Secret != nil || v.PersistentVolumeClaim != nil || v.Projected != nil {
			errs = append(errs, fmt.Errorf("spec.volumes[%d] %q: static pods cannot refer to API objects", i, v.Name))
		}
		volumes[v.Name] = true
	}
	for _, c := range append(append([]v1.Container(nil), p.Spec.InitContainers...), p.Spec.Containers...) {
		for _, m := range c.VolumeMounts {
			if !volumes[m.Name] {
				errs = append(errs, fmt.Errorf("container %q mounts volume %q, which spec.volumes does not have", c.Name, m.Name))
			}
		}
	}
	return errors.Join(errs...)
}

// setDefaults fills in what the API server would have.
func setDefaults(p *v1.Pod) {
	s := &p.Spec
	if s.RestartPolicy == "" {
		s.RestartPolicy = v1.RestartPolicyAlways
	}
	if s.DNSPolicy == "" {
		s.DNSPolicy = v1.DNSClusterFirst
	}
	if s.TerminationGracePeriodSeconds == nil {
		grace := int64(v1.DefaultTerminationGracePeriodSeconds)
		s.TerminationGracePeriodSeconds = &grace
	}
	if s.SecurityContext == nil {
		s.SecurityContext = &v1.PodSecurityContext{}
	}
	if s.SchedulerName == "" {
		s.SchedulerName = v1.DefaultSchedulerName
	}
	if s.EnableServiceLinks == nil {
		links := v1.DefaultEnableServiceLinks
		s.EnableServiceLinks = &links
	}
	for i := range s.InitContainers {
		containerDefaults(&s.InitContainers[i], s.HostNetwork)
	}
	for i := range s.Containers {
		containerDefaults(&s.Containers[i], s.HostNetwork)
	}
	for i := range s.Volumes {
		if h := s.Volumes[i].HostPath; h != nil && h.Type == nil {
			t := v1.HostPathUnset
			h.Type = &t
		}
		if s.Volumes[i].VolumeSource == (v1.VolumeSource{}) {
			s.Volumes[i].EmptyDir = &v1.EmptyDirVolumeSource{}
		}
	}
}

func containerDefaults(c *v1.Container, hostNetwork bool) {
	if c.TerminationMessagePath == "" {
		c.TerminationMessagePath = v1.TerminationMessagePathDefault
	}
	if c.TerminationMessagePolicy == "" {
		c.TerminationMessagePolicy = v1.TerminationMessageReadFile
	}
	if c.ImagePullPolicy == "" {
		c.ImagePullPolicy = v1.PullIfNotPresent
		if latest(c.Image) {
			c.ImagePullPolicy = v1.PullAlways
		}
	}
	for i := range c.Ports {
		if c.Ports[i].Protocol == "" {
			c.Ports[i].Protocol = v1.ProtocolTCP
		}
		if hostNetwork && c.Ports[i].HostPort == 0 {
			c.Ports[i].HostPort = c.Ports[i].ContainerPort
		}
	}
	for name, limit := range c.Resources.Limits {
		if c.Resources.Requests == nil {
			c.Resources.Requests = v1.ResourceList{}
		}
		if _, ok := c.Resources.Requests[name]; !ok {
			c.Resources.Requests[name] = limit
		}
	}
	for _, p := range []*v1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		probeDefaults(p)
	}
	if l := c.Lifecycle; l != nil {
		handlerDefaults(l.PostStart)
		handlerDefaults(l.PreStop)
	}
}

func handlerDefaults(h *v1.LifecycleHandler) {
	if h != nil && h.HTTPGet != nil {
		httpDefaults(h.HTTPGet)
	}
}

func httpDefaults(g *v1.HTTPGetAction) {
	if g.Path == "" {
		g.Path = "/"
	}
	if g.Scheme == "" {
		g.Scheme = v1.URISchemeHTTP
	}
}

func probeDefaults(p *v1.Probe) {
	if p == nil {
		return
	}
	for _, d := range []struct {
		field *int32
		value int32
	}{{&p.TimeoutSeconds, 1}, {&p.PeriodSeconds, 10}, {&p.SuccessThreshold, 1}, {&p.FailureThreshold, 3}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if p.HTTPGet != nil {
		httpDefaults(p.HTTPGet)
	}
}

// latest says whether an image reference names the tag latest, if only by naming none.
func latest(image string) bool {
	if strings.Contains(image, "@") {
		return false
	}
	last := image[strings.LastIndex(image, "/")+1:]
	_, tag, ok := strings.Cut(last, ":")
	return !ok || tag == "latest"
}
