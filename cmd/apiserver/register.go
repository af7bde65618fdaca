package apiserver

import (
	"context"
	"fmt"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsapiserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	crdlisters "k8s.io/apiextensions-apiserver/pkg/client/listers/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/tools/cache"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregatorapiserver "k8s.io/kube-aggregator/pkg/apiserver"
	apiregistrationclient "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"
	"k8s.io/kube-aggregator/pkg/controllers/autoregister"

	"github.com/orlop-io/orlop/cmd/apiserver/metricsapi"
	"github.com/orlop-io/orlop/cmd/apiserver/scheme"
)

// registrar is what autoregister's controller offers here.
type registrar interface {
	autoregister.AutoAPIServiceRegistration
	Run(workers int, stop <-chan struct{})
}

// register keeps an APIService for every group version that this process serves itself, custom resources included.
func (b *base) register(s *aggregatorapiserver.APIAggregator, extensions *apiextensionsapiserver.CustomResourceDefinitions) error {
	client, err := apiregistrationclient.NewForConfig(b.config.LoopbackClientConfig)
	if err != nil {
		return fmt.Errorf("make loopback client: %w", err)
	}
	var r registrar = autoregister.NewAutoRegisterController(s.APIRegistrationInformers.Apiregistration().V1().APIServices(), client.ApiregistrationV1())
	on := b.config.MergedResourceConfig
	var names []string
	for _, service := range builtinServices() {
		gv := schema.GroupVersion{Group: service.Spec.Group, Version: service.Spec.Version}
		if gv.Group == apiextensionsv1.GroupName || on.ResourceEnabled(gv.WithResource("")) {
			r.AddAPIServiceToSyncOnStart(service)
			names = append(names, service.Name)
		}
	}
	if err := s.GenericAPIServer.AddBootSequenceHealthChecks(registered(names, s.APIRegistrationInformers.Apiregistration().V1().APIServices().Lister().Get)); err != nil {
		return fmt.Errorf("add health check: %w", err)
	}
	crds := extensions.Informers.Apiextensions().V1().CustomResourceDefinitions()
	follower := &crdFollower{crds.Lister(), r}
	if _, err := crds.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    follower.changed,
		UpdateFunc: func(old, now any) { follower.changed(old); follower.changed(now) },
		DeleteFunc: follower.changed,
	}); err != nil {
		return fmt.Errorf("follow custom resource definitions: %w", err)
	}
	if b.options.metricsServed() {
		err := s.GenericAPIServer.AddPostStartHook("metrics-registration", task{once: func(ctx context.Context) error {
			return registerMetrics(ctx, client)
		}, name: "metrics-registration"}.hook)
		if err != nil {
			return fmt.Errorf("add start hook: %w", err)
		}
	}
	return s.GenericAPIServer.AddPostStartHook("kube-apiserver-autoregistration", func(h genericapiserver.PostStartHookContext) error {
		go func() {
			// Services of custom resources that were there before must not be taken for leftovers.
			if cache.WaitForCacheSync(h.Done(), crds.Informer().HasSynced) {
				r.Run(5, h.Done())
			}
		}()
		return nil
	})
}

// registerMetrics lets metrics.k8s.io be answered here, unless somebody else answers for it already. It is not kept: a
// metrics server of the user's takes the group over by changing the APIService.
func registerMetrics(ctx context.Context, client apiregistrationclient.Interface) error {
	_, err := client.ApiregistrationV1().APIServices().Create(ctx, localService(metricsapi.GroupVersion, 100, 100), metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// builtinServices orders the groups and versions of discovery as upstream does.
func builtinServices() []*apiregistrationv1.APIService {
	out := []*apiregistrationv1.APIService{localService(apiextensionsv1.SchemeGroupVersion, 16700, 15)}
	for _, gv := range scheme.Served() {
		version := int32(15)
		switch {
		case gv.Group == "":
			version = 1
		case gv.Group == "autoscaling" && gv.Version == "v2":
			version = 30
		case gv.Group == "flowcontrol.apiserver.k8s.io":
			version = 21
		}
		out = append(out, localService(gv, groupPriority(gv.Group), version))
	}
	return out
}

// groupPriority is where a built-in group stands in discovery: the higher, the earlier.
func groupPriority(group string) int32 {
	switch group {
	case "":
		return 18000
	case "apps":
		return 17800
	case "events.k8s.io":
		return 17750
	case "authentication.k8s.io":
		return 17700
	case "authorization.k8s.io":
		return 17600
	case "autoscaling":
		return 17500
	case "batch":
		return 17400
	case "certificates.k8s.io":
		return 17300
	case "networking.k8s.io":
		return 17200
	case "policy":
		return 17100
	case "rbac.authorization.k8s.io":
		return 17000
	case "storage.k8s.io":
		return 16800
	case "admissionregistration.k8s.io":
		return 16700
	case "scheduling.k8s.io":
		return 16600
	case "coordination.k8s.io":
		return 16500
	case "node.k8s.io":
		return 16300
	case "discovery.k8s.io":
		return 16200
	case "flowcontrol.apiserver.k8s.io":
		return 16100
	case "resource.k8s.io":
		return 15900
	case "storagemigration.k8s.io":
		return 15800
	}
	return 15000
}

func localService(gv schema.GroupVersion, group, version int32) *apiregistrationv1.APIService {
	return &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: gv.Version + "." + gv.Group},
		Spec:       apiregistrationv1.APIServiceSpec{Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: group, VersionPriority: version},
	}
}

// crdFollower adds and removes the APIServices of custom resources.
type crdFollower struct {
	crds crdlisters.CustomResourceDefinitionLister
	to   autoregister.AutoAPIServiceRegistration
}

func (f *crdFollower) changed(obj any) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	crd, ok := obj.(*apiextensionsv1.CustomResourceDefinition)
	if !ok {
		return
	}
	for _, v := range crd.Spec.Versions {
		f.sync(schema.GroupVersion{Group: crd.Spec.Group, Version: v.Name})
	}
}

// sync looks at all definitions: several share a group version, and the last that goes takes it along.
func (f *crdFollower) sync(gv schema.GroupVersion) {
	all, err := f.crds.List(labels.Everything())
	if err != nil {
		return // a cache cannot fail to list
	}
	for _, crd := range all {
		if crd.Spec.Group != gv.Group {
			continue
		}
		for _, v := range crd.Spec.Versions {
			if v.Name == gv.Version && v.Served {
				f.to.AddAPIServiceToSync(localService(gv, 1000, 100))
				return
			}
		}
	}
	f.to.RemoveAPIServiceToSync(gv.Version + "." + gv.Group)
}
