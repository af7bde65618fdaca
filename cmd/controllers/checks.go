package controllers

import (
	"fmt"
	"os"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"github.com/orlop-io/orlop/cmd/controllers/certificatecleaner"
	"github.com/orlop-io/orlop/cmd/controllers/legacytoken"
	"github.com/orlop-io/orlop/cmd/controllers/policystatus"
	"github.com/orlop-io/orlop/cmd/controllers/storagemigrator"
	"github.com/orlop-io/orlop/cmd/controllers/trustbundle"
)

// checks are the controllers that look after what the API server lives by: its policies and credentials.
func checks() []entry {
	return []entry{
		{name: "validatingadmissionpolicy-status-controller", alias: "validatingadmissionpolicy-status", account: "validatingadmissionpolicy-status-controller",
			build: func(e *env, api *rest.Config) (runner, error) {
				client, err := kubernetes.NewForConfig(api)
				if err != nil {
					return nil, fmt.Errorf("make client: %w", err)
				}
				checker := &validating.TypeChecker{
					SchemaResolver: &resolver.ClientDiscoveryResolver{Discovery: client.Discovery()},
					RestMapper:     restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery())),
				}
				p, err := policystatus.New(client, checker.Check, e.shared, e.log)
				return p.Run, err
			}},
		{name: "kube-apiserver-serving-clustertrustbundle-publisher-controller", alias: "kube-apiserver-serving-clustertrustbundle-publisher",
			account: "kube-apiserver-serving-clustertrustbundle-publisher",
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				if e.rootCAFile == "" {
					return nil, nil
				}
				ca, err := os.ReadFile(e.rootCAFile)
				if err != nil {
					return nil, fmt.Errorf("read root CA: %w", err)
				}
				ofSigner := informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.FieldSelector = "spec.signerName=" + trustbundle.Signer })
				p, err := trustbundle.New(c, ca, e.only(ofSigner).Certificates().V1().ClusterTrustBundles(), e.log)
				return p.Run, err
			})},
		{name: "storage-version-migrator-controller", alias: "svm", account: "storage-version-migrator-controller",
			build: func(e *env, api *rest.Config) (runner, error) {
				client, err := kubernetes.NewForConfig(api)
				if err != nil {
					return nil, fmt.Errorf("make client: %w", err)
				}
				objects, err := metadata.NewForConfig(api)
				if err != nil {
					return nil, fmt.Errorf("make metadata client: %w", err)
				}
				mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery()))
				m, err := storagemigrator.New(client, objects, mapper, e.shared, e.log)
				return m.Run, err
			}},
		{name: "podcertificaterequest-cleaner-controller", alias: "podcertificaterequest-cleaner", account: "podcertificaterequestcleaner",
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) { return certificatecleaner.New(c, e.log).Run, nil })},
		{name: "legacy-serviceaccount-token-cleaner-controller", alias: "legacy-serviceaccount-token-cleaner", account: "legacy-service-account-token-cleaner",
			build: typed(func(e *env, c kubernetes.Interface) (runner, error) {
				return legacytoken.New(e.root, c, e.legacyTokens, e.shared, e.log).Run, nil
			})},
	}
}
