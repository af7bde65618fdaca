package controllers

import (
	"crypto"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/util/keyutil"

	"github.com/orlop-io/orlop/cmd/controllers/disruption"
	"github.com/orlop-io/orlop/cmd/controllers/nodettl"
	"github.com/orlop-io/orlop/cmd/controllers/resourcequota"
	"github.com/orlop-io/orlop/cmd/controllers/secrettoken"
)

// secretTokens is the controller of Secrets with tokens, which acts as the process itself: its right to
// sign tokens is not a right that an account could have.
func secretTokens(e *env, api *rest.Config) (runner, error) {
	if e.tokenKeyFile == "" {
		return nil, nil
	}
	key, err := keyutil.PrivateKeyFromFile(e.tokenKeyFile)
	if err != nil {
		return nil, fmt.Errorf("read service account key: %w", err)
	}
	private, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("service account key %s: %T cannot sign", e.tokenKeyFile, key)
	}
	signer, err := secrettoken.NewSigner(private)
	if err != nil {
		return nil, err
	}
	var ca []byte
	if e.rootCAFile != "" {
		if ca, err = os.ReadFile(e.rootCAFile); err != nil {
			return nil, fmt.Errorf("read root CA: %w", err)
		}
	}
	client, err := kubernetes.NewForConfig(api)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	secrets := e.only(informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = "type=" + string(corev1.SecretTypeServiceAccountToken)
	})).Core().V1().Secrets()
	c, err := secrettoken.New(client, secrets, e.shared.Core().V1().ServiceAccounts(), signer, ca, e.log)
	if err != nil {
		return nil, err
	}
	return c.Run, nil
}

// budgets are the controllers that keep count of what others may spend, or keep.
func budgets() []entry {
	return []entry{
		{name: "resourcequota-controller", alias: "resourcequota", account: "resourcequota-controller",
			build: func(e *env, api *rest.Config) (runner, error) {
				act, err := kubernetes.NewForConfig(api)
				if err != nil {
					return nil, fmt.Errorf("make client: %w", err)
				}
				watch, err := metadata.NewForConfig(e.api)
				if err != nil {
					return nil, fmt.Errorf("make metadata client: %w", err)
				}
				clients := resourcequota.Clients{Act: act, Watch: e.root, Metadata: watch}
				q, err := resourcequota.New(clients, e.shared, e.quotaPeriod, e.log)
				if err != nil {
					return nil, err
				}
				return q.Run, nil
			}},
		{name: "disruption-controller", alias: "disruption", account: "disruption-controller",
			build: func(e *env, api *rest.Config) (runner, error) {
				act, err := kubernetes.NewForConfig(api)
				if err != nil {
					return nil, fmt.Errorf("make client: %w", err)
				}
				objects, err := dynamic.NewForConfig(api)
				if err != nil {
					return nil, fmt.Errorf("make dynamic client: %w", err)
				}
				known := memory.NewMemCacheClient(act.Discovery())
				scales := disruption.Scales{Objects: objects, Discovery: known, Mapper: restmapper.NewDeferredDiscoveryRESTMapper(known)}
				d, err := disruption.New(act, scales, e.shared, e.recorder("controllermanager"), e.log)
				return d.Run, err
			}},
		{name: "ttl-controller", alias: "ttl", account: "ttl-controller",
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				t, err := nodettl.New(c, e.shared.Core().V1().Nodes(), e.log)
				return t.Run, err
			})},
		{name: "serviceaccount-token-controller", alias: "serviceaccount-token", build: secretTokens},
	}
}
