package admission

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	adm "k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/warning"
)

// heard collects warnings.
type heard struct{ texts []string }

func (h *heard) AddWarning(_, text string) { h.texts = append(h.texts, text) }

const podSecurityConfig = `apiVersion: pod-security.admission.config.k8s.io/v1
kind: PodSecurityConfiguration
defaults: {enforce: baseline, enforce-version: latest, warn: restricted, warn-version: latest, audit: restricted, audit-version: latest}
exemptions: {usernames: [robot], runtimeClasses: [vm], namespaces: [system]}
`

func TestPodSecurityLevelsAndExemptions(t *testing.T) {
	plugin, err := newPodSecurity(strings.NewReader(podSecurityConfig))
	if err != nil {
		t.Fatal(err)
	}
	labelled := func(name string, labels map[string]string) *corev1.Namespace {
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	}
	ready(t, plugin, labelled("default", nil), labelled("system", nil),
		labelled("strict", map[string]string{"pod-security.kubernetes.io/enforce": "restricted"}),
		labelled("open", map[string]string{"pod-security.kubernetes.io/enforce": "privileged", "pod-security.kubernetes.io/warn": "privileged", "pod-security.kubernetes.io/audit": "privileged"}))
	plain := func(edit func(*corev1.PodSpec)) corev1.PodSpec {
		s := corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}
		if edit != nil {
			edit(&s)
		}
		return s
	}
	hostNetwork := plain(func(s *corev1.PodSpec) { s.HostNetwork = true })
	pod := func(s corev1.PodSpec) runtime.Object { return &corev1.Pod{Spec: s} }
	template := func(s corev1.PodSpec) corev1.PodTemplateSpec { return corev1.PodTemplateSpec{Spec: s} }
	core, apps, batch := corev1.SchemeGroupVersion, appsv1.SchemeGroupVersion, batchv1.SchemeGroupVersion
	for _, tt := range []struct {
		name     string
		ns, user string
		resource schema.GroupVersionResource
		obj      runtime.Object
		refused  string
		warned   string
		audited  string
	}{
		{"the default level refuses", "default", "", core.WithResource("pods"), pod(hostNetwork), `violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true)`, "", "enforce-policy"},
		{"the default level warns and notes", "default", "", core.WithResource("pods"), pod(plain(nil)), "", `would violate PodSecurity "restricted:latest"`, "audit-violations"},
		{"a label raises the level", "strict", "", core.WithResource("pods"), pod(plain(nil)), `violates PodSecurity "restricted:latest"`, "", "enforce-policy"},
		{"a label lowers the level", "open", "", core.WithResource("pods"), pod(hostNetwork), "", "", "enforce-policy"},
		{"an exempt user", "default", "robot", core.WithResource("pods"), pod(hostNetwork), "", "", "exempt"},
		{"an exempt namespace", "system", "", core.WithResource("pods"), pod(hostNetwork), "", "", "exempt"},
		{"an exempt runtime class", "default", "", core.WithResource("pods"), pod(plain(func(s *corev1.PodSpec) { vm := "vm"; s.RuntimeClassName, s.HostNetwork = &vm, true })), "", "", "exempt"},
		{"a template only warns", "default", "", apps.WithResource("deployments"), &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Template: template(hostNetwork)}}, "", "host namespaces (hostNetwork=true)", "audit-violations"},
		{"of a daemon set too", "default", "", apps.WithResource("daemonsets"), &appsv1.DaemonSet{Spec: appsv1.DaemonSetSpec{Template: template(hostNetwork)}}, "", "would violate PodSecurity", "audit-violations"},
		{"of a cron job too", "default", "", batch.WithResource("cronjobs"), &batchv1.CronJob{Spec: batchv1.CronJobSpec{JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: template(hostNetwork)}}}}, "", "would violate PodSecurity", "audit-violations"},
		{"of a replication controller too", "default", "", core.WithResource("replicationcontrollers"), &corev1.ReplicationController{Spec: corev1.ReplicationControllerSpec{Template: &corev1.PodTemplateSpec{Spec: hostNetwork}}}, "", "would violate PodSecurity", "audit-violations"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			notes := new(heard)
			a := &noted{Attributes: adm.NewAttributesRecord(tt.obj, nil, schema.GroupVersionKind{}, tt.ns, "x", tt.resource, "", adm.Create, nil, false, &user.DefaultInfo{Name: tt.user})}
			err := plugin.Validate(warning.WithWarningRecorder(t.Context(), notes), a, nil)
			outcome(t, err, tt.refused)
			if err != nil && strings.Count(err.Error(), "is forbidden") > 1 {
				t.Errorf("it says twice what is forbidden: %v", err)
			}
			if tt.warned == "" != (len(notes.texts) == 0) || tt.warned != "" && !strings.Contains(strings.Join(notes.texts, "\n"), tt.warned) {
				t.Errorf("warnings %q, want %q", notes.texts, tt.warned)
			}
			if !slices.Contains(a.keys, "pod-security.kubernetes.io/"+tt.audited) {
				t.Errorf("noted %q, want %q", a.keys, tt.audited)
			}
		})
	}
}

// noted remembers which annotations a plugin made for the audit.
type noted struct {
	adm.Attributes
	keys []string
}

func (n *noted) AddAnnotation(key, _ string) error {
	n.keys = append(n.keys, key)
	return nil
}

func TestPodSecurityConfigurationIsStrict(t *testing.T) {
	for _, text := range []string{"kind: Pod\napiVersion: v1\n", strings.Replace(podSecurityConfig, "enforce:", "enforced:", 1)} {
		if _, err := newPodSecurity(strings.NewReader(text)); err == nil {
			t.Errorf("it passes:\n%s", text)
		}
	}
}
