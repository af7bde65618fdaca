package printers

import (
	"fmt"
	"sort"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

func nodePrinter() printer {
	return newPrinter(columns("Status", "Roles", "Age", "Version", "+Internal-IP", "+External-IP", "+OS-Image", "+Kernel-Version", "+Container-Runtime"),
		func(n *corev1.Node, now time.Time) []any {
			info := n.Status.NodeInfo
			return []any{n.Name, nodeStatus(n), orNone(strings.Join(nodeRoles(n), ",")), age(n, now), info.KubeletVersion,
				nodeAddress(n, corev1.NodeInternalIP), nodeAddress(n, corev1.NodeExternalIP),
				orUnknown(info.OSImage), orUnknown(info.KernelVersion), orUnknown(info.ContainerRuntimeVersion)}
		})
}

func orUnknown(s string) string {
	if s == "" {
		return "<unknown>"
	}
	return s
}

func nodeStatus(n *corev1.Node) string {
	status := "Unknown"
	for _, c := range n.Status.Conditions {
		if c.Type != corev1.NodeReady {
			continue
		}
		status = "NotReady"
		if c.Status == corev1.ConditionTrue {
			status = "Ready"
		}
	}
	if n.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	return status
}

func nodeRoles(n *corev1.Node) []string {
	var roles []string
	for k, v := range n.Labels {
		if role, ok := strings.CutPrefix(k, "node-role.kubernetes.io/"); ok && role != "" {
			roles = append(roles, role)
		} else if k == "kubernetes.io/role" && v != "" {
			roles = append(roles, v)
		}
	}
	return sortedUnique(roles)
}

func nodeAddress(n *corev1.Node, kind corev1.NodeAddressType) string {
	for _, a := range n.Status.Addresses {
		if a.Type == kind {
			return a.Address
		}
	}
	return none
}

func servicePrinter() printer {
	return newPrinter(columns("Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "+Selector"), func(s *corev1.Service, now time.Time) []any {
		ip := none
		if len(s.Spec.ClusterIPs) > 0 {
			ip = s.Spec.ClusterIPs[0]
		}
		return []any{s.Name, string(s.Spec.Type), ip, externalIP(s), orNone(servicePorts(s.Spec.Ports)), age(s, now), labels.FormatLabels(s.Spec.Selector)}
	})
}

func externalIP(s *corev1.Service) string {
	switch s.Spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort:
		return orNone(strings.Join(s.Spec.ExternalIPs, ","))
	case corev1.ServiceTypeLoadBalancer:
		var all []string
		for _, in := range s.Status.LoadBalancer.Ingress {
			if in.IP != "" {
				all = append(all, in.IP)
			} else if in.Hostname != "" {
				all = append(all, in.Hostname)
			}
		}
		all = append(sortedUnique(all), s.Spec.ExternalIPs...)
		if len(all) == 0 {
			return "<pending>"
		}
		return strings.Join(all, ",")
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	}
	return "<unknown>"
}

func servicePorts(ports []corev1.ServicePort) string {
	var out []string
	for _, p := range ports {
		if p.NodePort > 0 {
			out = append(out, fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol))
		} else {
			out = append(out, fmt.Sprintf("%d/%s", p.Port, p.Protocol))
		}
	}
	return strings.Join(out, ",")
}

func endpointsPrinter() printer {
	return newPrinter(columns("Endpoints", "Age"), func(e *corev1.Endpoints, now time.Time) []any {
		var all []string
		for _, s := range e.Subsets {
			for _, a := range s.Addresses {
				if len(s.Ports) == 0 {
					all = append(all, a.IP)
				}
			}
			for _, p := range s.Ports {
				for _, a := range s.Addresses {
					all = append(all, hostPort(a.IP, p.Port))
				}
			}
		}
		return []any{e.Name, atMost(all, 3, ",", none), age(e, now)}
	})
}

func namespacePrinter() printer {
	return newPrinter(columns("Status", "Age"), func(n *corev1.Namespace, now time.Time) []any {
		return []any{n.Name, string(n.Status.Phase), age(n, now)}
	})
}

func secretPrinter() printer {
	return newPrinter(columns("Type", "Data", "Age"), func(s *corev1.Secret, now time.Time) []any {
		return []any{s.Name, string(s.Type), int64(len(s.Data)), age(s, now)}
	})
}

func configMapPrinter() printer {
	return newPrinter(columns("Data", "Age"), func(c *corev1.ConfigMap, now time.Time) []any {
		return []any{c.Name, int64(len(c.Data) + len(c.BinaryData)), age(c, now)}
	})
}

func serviceAccountPrinter() printer {
	return newPrinter(columns("Secrets", "Age"), func(s *corev1.ServiceAccount, now time.Time) []any {
		return []any{s.Name, int64(len(s.Secrets)), age(s, now)}
	})
}

func podTemplatePrinter() printer {
	return newPrinter(columns("Containers", "Images", "Pod Labels"), func(t *corev1.PodTemplate, _ time.Time) []any {
		names, images := layout(t.Template.Spec.Containers)
		return []any{t.Name, names, images, labels.FormatLabels(t.Template.Labels)}
	})
}

func eventPrinter() printer {
	return printer{
		columns: append(unnamedColumns("Last Seen", "Type", "Reason", "Object", "+Subobject", "+Source", "Message", "+First Seen", "+Count"),
			metav1.TableColumnDefinition{Name: "Name", Type: "string", Format: "name", Priority: 1, Description: metav1.ObjectMeta{}.SwaggerDoc()["name"]}),
		cells: newPrinter(nil, eventCells).cells,
	}
}

func eventCells(e *corev1.Event, now time.Time) []any {
	first := since(e.FirstTimestamp, now)
	if e.FirstTimestamp.IsZero() {
		first = since(metav1.Time(e.EventTime), now)
	}
	last := first
	if !e.LastTimestamp.IsZero() {
		last = since(e.LastTimestamp, now)
	}
	count := e.Count
	if e.Series != nil {
		last, count = since(metav1.Time(e.Series.LastObservedTime), now), e.Series.Count
	} else if count == 0 {
		count = 1
	}
	object := strings.ToLower(e.InvolvedObject.Kind)
	if e.InvolvedObject.Name != "" {
		object += "/" + e.InvolvedObject.Name
	}
	return []any{last, e.Type, e.Reason, object, e.InvolvedObject.FieldPath, eventSource(e), strings.TrimSpace(e.Message), first, int64(count), e.Name}
}

func eventSource(e *corev1.Event) string {
	component, host := e.Source.Component, e.Source.Host
	if component == "" {
		component = e.ReportingController
	}
	if host == "" {
		host = e.ReportingInstance
	}
	if host == "" {
		return component
	}
	return component + ", " + host
}

func componentStatusPrinter() printer {
	return newPrinter(columns("Status", "Message", "Error"), func(c *corev1.ComponentStatus, _ time.Time) []any {
		status, message, failure := "Unknown", "", ""
		for _, cond := range c.Conditions {
			if cond.Type != corev1.ComponentHealthy {
				continue
			}
			status = "Unhealthy"
			if cond.Status == corev1.ConditionTrue {
				status = "Healthy"
			}
			message, failure = cond.Message, cond.Error
			break
		}
		return []any{c.Name, status, message, failure}
	})
}

func quotaPrinter() printer {
	return newPrinter(columns("Request", "Limit", "Age"), func(q *corev1.ResourceQuota, now time.Time) []any {
		var names []string
		for name := range q.Status.Hard {
			names = append(names, string(name))
		}
		sort.Strings(names)
		var requests, limits []string
		for _, name := range names {
			hard, used := q.Status.Hard[corev1.ResourceName(name)], q.Status.Used[corev1.ResourceName(name)]
			text := fmt.Sprintf("%s: %s/%s", name, used.String(), hard.String())
			if strings.HasPrefix(name, "limits") {
				limits = append(limits, text)
			} else {
				requests = append(requests, text)
			}
		}
		return []any{q.Name, strings.Join(requests, ", "), strings.Join(limits, ", "), age(q, now)}
	})
}

func volumePrinter() printer {
	return newPrinter(columns("Capacity", "Access Modes", "Reclaim Policy", "Status", "Claim", "StorageClass", "VolumeAttributesClass", "Reason", "Age", "+VolumeMode"),
		func(v *corev1.PersistentVolume, now time.Time) []any {
			claim := ""
			if ref := v.Spec.ClaimRef; ref != nil {
				claim = ref.Namespace + "/" + ref.Name
			}
			phase := string(v.Status.Phase)
			if v.DeletionTimestamp != nil {
				phase = "Terminating"
			}
			class := v.Spec.StorageClassName
			if beta, ok := v.Annotations[corev1.BetaStorageClassAnnotation]; ok {
				class = beta
			}
			return []any{v.Name, storage(v.Spec.Capacity), accessModes(v.Spec.AccessModes), string(v.Spec.PersistentVolumeReclaimPolicy), phase, claim,
				class, deref(v.Spec.VolumeAttributesClassName, unset), v.Status.Reason, age(v, now), deref(v.Spec.VolumeMode, unset)}
		})
}

func claimPrinter() printer {
	return newPrinter(columns("Status", "Volume", "Capacity", "Access Modes", "StorageClass", "VolumeAttributesClass", "Age", "+VolumeMode"),
		func(c *corev1.PersistentVolumeClaim, now time.Time) []any {
			phase, capacity, modes := string(c.Status.Phase), "", ""
			if c.DeletionTimestamp != nil {
				phase = "Terminating"
			}
			if c.Spec.VolumeName != "" {
				capacity, modes = storage(c.Status.Capacity), accessModes(c.Status.AccessModes)
			}
			class := deref(c.Spec.StorageClassName, "")
			if beta, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
				class = beta
			}
			return []any{c.Name, phase, c.Spec.VolumeName, capacity, modes, class,
				deref(c.Spec.VolumeAttributesClassName, unset), age(c, now), deref(c.Spec.VolumeMode, unset)}
		})
}
