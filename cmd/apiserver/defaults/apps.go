package defaults

import (
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func addApps(r *registry) {
	addList(r, func(l *appsv1.DeploymentList) []appsv1.Deployment { return l.Items }, deployment)
	addList(r, func(l *appsv1.ReplicaSetList) []appsv1.ReplicaSet { return l.Items }, func(s *appsv1.ReplicaSet) {
		setPtr(&s.Spec.Replicas, 1)
		podTemplate(&s.Spec.Template)
	})
	addList(r, func(l *appsv1.DaemonSetList) []appsv1.DaemonSet { return l.Items }, daemonSet)
	addList(r, func(l *appsv1.StatefulSetList) []appsv1.StatefulSet { return l.Items }, statefulSet)
}

func deployment(d *appsv1.Deployment) {
	setPtr(&d.Spec.Replicas, 1)
	setPtr(&d.Spec.RevisionHistoryLimit, 10)
	setPtr(&d.Spec.ProgressDeadlineSeconds, 600)
	set(&d.Spec.Strategy.Type, appsv1.RollingUpdateDeploymentStrategyType)
	if d.Spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		setPtr(&d.Spec.Strategy.RollingUpdate, appsv1.RollingUpdateDeployment{})
		setPtr(&d.Spec.Strategy.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
		setPtr(&d.Spec.Strategy.RollingUpdate.MaxSurge, intstr.FromString("25%"))
	}
	podTemplate(&d.Spec.Template)
}

func daemonSet(d *appsv1.DaemonSet) {
	set(&d.Spec.UpdateStrategy.Type, appsv1.RollingUpdateDaemonSetStrategyType)
	if d.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		setPtr(&d.Spec.UpdateStrategy.RollingUpdate, appsv1.RollingUpdateDaemonSet{})
		setPtr(&d.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
		setPtr(&d.Spec.UpdateStrategy.RollingUpdate.MaxSurge, intstr.FromInt32(0))
	}
	setPtr(&d.Spec.RevisionHistoryLimit, 10)
	podTemplate(&d.Spec.Template)
}

func statefulSet(s *appsv1.StatefulSet) {
	set(&s.Spec.PodManagementPolicy, appsv1.OrderedReadyPodManagement)
	set(&s.Spec.UpdateStrategy.Type, appsv1.RollingUpdateStatefulSetStrategyType)
	if s.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType {
		setPtr(&s.Spec.UpdateStrategy.RollingUpdate, appsv1.RollingUpdateStatefulSetStrategy{})
		setPtr(&s.Spec.UpdateStrategy.RollingUpdate.Partition, 0)
		setPtr(&s.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
	}
	setPtr(&s.Spec.PersistentVolumeClaimRetentionPolicy, appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{})
	set(&s.Spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	set(&s.Spec.PersistentVolumeClaimRetentionPolicy.WhenScaled, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	setPtr(&s.Spec.Replicas, 1)
	setPtr(&s.Spec.RevisionHistoryLimit, 10)
	podTemplate(&s.Spec.Template)
	for i := range s.Spec.VolumeClaimTemplates {
		c := &s.Spec.VolumeClaimTemplates[i]
		set(&c.APIVersion, "v1")
		set(&c.Kind, "PersistentVolumeClaim")
		claim(c)
	}
}
