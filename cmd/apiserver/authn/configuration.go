package authn

import (
	"errors"
	"fmt"
	"os"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/install"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	authenticationcel "k8s.io/apiserver/pkg/authentication/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

// ReadConfiguration reads the file of an AuthenticationConfiguration and returns what it says about anonymous requests,
// nil if it says nothing. Issuers of other tokens are refused: who configures one relies on it.
func ReadConfiguration(file string) (*apiserver.AnonymousAuthConfig, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the authentication configuration: %w", err)
	}
	scheme := runtime.NewScheme()
	install.Install(scheme)
	obj, err := runtime.Decode(serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDecoder(), text)
	if err != nil {
		return nil, fmt.Errorf("read the authentication configuration %s: %w", file, err)
	}
	cfg, ok := obj.(*apiserver.AuthenticationConfiguration)
	if !ok {
		return nil, fmt.Errorf("read the authentication configuration %s: expected AuthenticationConfiguration, got %T", file, obj)
	}
	compiler := authenticationcel.NewCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	if errs := validation.ValidateAuthenticationConfiguration(compiler, cfg, nil); len(errs) > 0 {
		return nil, fmt.Errorf("authentication configuration %s: %w", file, errs.ToAggregate())
	}
	if len(cfg.JWT) > 0 {
		return nil, fmt.Errorf("authentication configuration %s: %w", file, errors.New("jwt: tokens of other issuers are not supported"))
	}
	return cfg.Anonymous, nil
}
