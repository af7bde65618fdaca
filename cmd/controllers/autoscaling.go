package controllers

import (
	"fmt"

	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/scale"
	metricsclient "k8s.io/metrics/pkg/client/clientset/versioned/typed/metrics/v1beta1"

	"github.com/orlop-io/orlop/cmd/controllers/podautoscaler"
)

func autoscaling() []entry {
	return []entry{{name: "horizontal-pod-autoscaler-controller", alias: "horizontalpodautoscaling", account: "horizontal-pod-autoscaler",
		build: func(e *env, api *rest.Config) (runner, error) {
			client, err := kubernetes.NewForConfig(api)
			if err != nil {
				return nil, fmt.Errorf("make client: %w", err)
			}
			metrics, err := metricsclient.NewForConfig(api)
			if err != nil {
				return nil, fmt.Errorf("make metrics client: %w", err)
			}
			// Custom resources come while the controller runs: what is not known is asked for anew.
			known := memory.NewMemCacheClient(client.Discovery())
			mapper := restmapper.NewDeferredDiscoveryRESTMapper(known)
			plain := rest.CopyConfig(api)
			plain.ContentType, plain.AcceptContentTypes = "", "" // custom resources have no protobuf
			scales, err := scale.NewForConfig(plain, mapper, dynamic.LegacyAPIPathResolverFunc, scale.NewDiscoveryScaleKindResolver(known))
			if err != nil {
				return nil, fmt.Errorf("make scale client: %w", err)
			}
			clients := podautoscaler.Clients{API: client, Scales: scales, Mapper: mapper, Metrics: metrics}
			a, err := podautoscaler.New(clients, e.autoscaling, e.shared, e.recorder("horizontal-pod-autoscaler"), e.log)
			return a.Run, err
		}}}
}
