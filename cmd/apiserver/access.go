package apiserver

import (
	"crypto"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"

	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/authorization/union"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/cmd/apiserver/authn"
	"github.com/orlop-io/orlop/cmd/apiserver/controlplane"
	"github.com/orlop-io/orlop/cmd/apiserver/nodeauthz"
	"github.com/orlop-io/orlop/cmd/apiserver/rbac"
	"github.com/orlop-io/orlop/cmd/apiserver/satoken"
)

// access is who may do what, and what the rest of the server must know about it.
type access struct {
	signer    *satoken.Signer
	discovery *satoken.Discovery
	// rbac is nil where RBAC is not among the modes.
	rbac  *rbac.Authorizer
	rules authorizer.RuleResolver
	trust controlplane.Trust
}

// setAccess puts authenticators and authorizers into gc.
func setAccess(gc *genericapiserver.Config, o *Options, client kubernetes.Interface, factory informers.SharedInformerFactory) (*access, error) {
	a := &access{}
	if err := a.authenticate(gc, o, client, factory); err != nil {
		return nil, err
	}
	if err := a.authorize(gc, o, factory); err != nil {
		return nil, err
	}
	return a, nil
}

func (a *access) authenticate(gc *genericapiserver.Config, o *Options, client kubernetes.Interface, factory informers.SharedInformerFactory) error {
	keys, private, err := o.tokenKeys()
	if err != nil {
		return err
	}
	audiences := o.APIAudiences
	if len(audiences) == 0 && len(o.TokenIssuers) > 0 {
		audiences = o.TokenIssuers[:1]
	}
	if private != nil {
		if a.signer, err = satoken.NewSigner(o.TokenIssuers[0], private); err != nil {
			return err
		}
		if a.discovery, err = issuerDocuments(gc, o, keys); err != nil {
			// Tokens work without it, and not everybody who names an issuer publishes one.
			klog.Background().Error(err, "service account tokens cannot be verified by others")
		}
	}
	cfg := authn.Config{
		ServiceAccountKeys: keys, ServiceAccountIssuers: o.TokenIssuers, APIAudiences: authenticator.Audiences(audiences),
		BootstrapTokens: o.BootstrapTokens, TokenFile: o.TokenFile, SkipLookup: !o.TokenLookup, Objects: authn.NewObjects(client, factory),
	}
	if cfg.Anonymous, err = o.anonymous(); err != nil {
		return err
	}
	if o.ClientCAFile != "" {
		ca, err := dynamiccertificates.NewDynamicCAContentFromFile("client-ca-bundle", o.ClientCAFile)
		if err != nil {
			return fmt.Errorf("read client CA: %w", err)
		}
		// Without this the TLS side never asks for a certificate.
		if err := gc.Authentication.ApplyClientCert(ca, gc.SecureServing); err != nil {
			return fmt.Errorf("apply client CA: %w", err)
		}
		cfg.ClientCA, a.trust.ClientCA = ca, ca.CurrentCABundleContent
	}
	if cfg.RequestHeader, err = o.Proxies.ToAuthenticationRequestHeaderConfig(); err != nil {
		return fmt.Errorf("read front proxy CA: %w", err)
	}
	if h := cfg.RequestHeader; h != nil {
		if err := gc.Authentication.ApplyClientCert(h.CAContentProvider, gc.SecureServing); err != nil {
			return fmt.Errorf("apply front proxy CA: %w", err)
		}
		gc.Authentication.RequestHeaderConfig = h
		a.trust.ProxyCA = h.CAContentProvider.CurrentCABundleContent
		a.trust.UsernameHeaders, a.trust.UIDHeaders, a.trust.GroupHeaders = o.Proxies.UsernameHeaders, o.Proxies.UIDHeaders, o.Proxies.GroupHeaders
		a.trust.ExtraPrefixes, a.trust.AllowedNames = o.Proxies.ExtraHeaderPrefixes, o.Proxies.AllowedNames
	}
	gc.Authentication.APIAudiences = cfg.APIAudiences
	gc.Authentication.Authenticator, err = authn.New(cfg)
	return err
}

// issuerDocuments makes the documents by which others verify service account tokens.
func issuerDocuments(gc *genericapiserver.Config, o *Options, keys []crypto.PublicKey) (*satoken.Discovery, error) {
	keysURL := o.TokenKeysURL
	if keysURL == "" {
		host := gc.ExternalAddress
		if _, _, err := net.SplitHostPort(host); err != nil {
			_, port, err := gc.SecureServing.HostPort()
			if err != nil {
				return nil, fmt.Errorf("own address: %w", err)
			}
			host = net.JoinHostPort(host, strconv.Itoa(port))
		}
		keysURL = (&url.URL{Scheme: "https", Host: host, Path: satoken.KeysPath}).String()
	}
	return satoken.NewDiscovery(o.TokenIssuers[0], keysURL, keys)
}

// anonymous is what the flags, or the file that takes their place, say of requests without a credential.
func (o *Options) anonymous() (*apiserver.AnonymousAuthConfig, error) {
	if o.AuthnConfigFile != "" {
		cfg, err := authn.ReadConfiguration(o.AuthnConfigFile)
		if err != nil {
			return nil, err
		}
		if cfg != nil && !o.Anonymous {
			return nil, errors.New("--anonymous-auth flag cannot be set when anonymous field is configured in authentication configuration file")
		}
		if cfg != nil {
			return cfg, nil
		}
	}
	return &apiserver.AnonymousAuthConfig{Enabled: o.Anonymous}, nil
}

func (a *access) authorize(gc *genericapiserver.Config, o *Options, factory informers.SharedInformerFactory) error {
	// The superuser group comes first: it must be able to repair whatever the others read.
	list := []union.NamedAuthorizer{{AuthorizerName: "system:masters", Authorizer: authorizerfactory.NewPrivilegedGroups(user.SystemPrivilegedGroup)}}
	add := func(mode string, z authorizer.Authorizer) {
		list = append(list, union.NamedAuthorizer{AuthorizerName: mode, Authorizer: z})
	}
	var rules []authorizer.RuleResolver
	for _, mode := range o.AuthorizationModes {
		switch mode {
		case modeNode:
			n, err := nodeauthz.New(factory)
			if err != nil {
				return err
			}
			add(mode, n)
		case modeRBAC:
			a.rbac = rbac.New(factory)
			add(mode, a.rbac)
			rules = append(rules, a.rbac)
		case modeAlwaysAllow:
			allow := authorizerfactory.NewAlwaysAllowAuthorizer()
			add(mode, allow)
			rules = append(rules, allow)
		case modeAlwaysDeny:
			add(mode, authorizerfactory.NewAlwaysDenyAuthorizer())
		}
	}
	var err error
	if gc.Authorization.Authorizer, err = union.New(list...); err != nil {
		return fmt.Errorf("join authorizers: %w", err)
	}
	a.rules = union.NewRuleResolvers(rules...)
	gc.RuleResolver = a.rules
	return nil
}

// guarded says whether grants are to be checked against what their maker has.
func (o *Options) guarded() bool { return slices.Contains(o.AuthorizationModes, modeRBAC) }
