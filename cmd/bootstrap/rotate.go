package bootstrap

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
)

func encryptionCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "encryption", Short: "Manage the keys that secrets are encrypted with in etcd"}
	var kubeconfig string
	var timeout time.Duration
	rotate := &cobra.Command{
		Use:   "rotate",
		Short: "Replace the encryption key and encrypt every secret anew",
		Long: `Replace the key in ` + hostEncryption + `/config.yaml on this control plane node: add a new key,
use it once the API server has read it, write every object anew, and drop the old key.
The API server looks at the file every ten seconds, so this takes about half a minute; it
keeps serving. After a failure run it again: it first ends what was begun.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
			if err != nil {
				return fmt.Errorf("read %s: %w", kubeconfig, err)
			}
			cfg.QPS, cfg.Burst = 200, 200
			server, err := newRotated(cfg)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeoutCause(cmd.Context(), timeout, fmt.Errorf("not within --timeout %s", timeout))
			defer cancel()
			return rotateKey(ctx, cmd.OutOrStdout(), Paths{}, server, time.Now())
		},
	}
	rotate.Flags().StringVar(&kubeconfig, "kubeconfig", "/etc/kubernetes/admin.conf", "kubeconfig of a cluster administrator")
	rotate.Flags().DurationVar(&timeout, "timeout", 10*time.Minute, "give up after this long")
	cmd.AddCommand(rotate)
	return cmd
}

// encryptedServer is the API server as rotation sees it.
type encryptedServer interface {
	// Loaded says whether the server uses the configuration with this hash.
	Loaded(ctx context.Context, hash string) (bool, error)
	// Rewrite writes all objects of a resource as they are, and returns how many.
	Rewrite(ctx context.Context, resource string) (int, error)
}

// rotateKey goes step by step, each one safe for servers that are one step behind.
func rotateKey(ctx context.Context, out io.Writer, p Paths, server encryptedServer, now time.Time) error {
	cfg, err := readEncryption(p)
	if err != nil {
		return fmt.Errorf("read the encryption keys of this control plane node: %w", err)
	}
	half, err := oldKeys(cfg)
	if err != nil {
		return err
	}
	if half {
		say(out, "encryption", "A rotation was left half done: ending it first")
		if err := retireKeys(ctx, out, p, server, cfg); err != nil {
			return err
		}
	}
	key, err := newEncryptionKey(now)
	if err != nil {
		return err
	}
	say(out, "encryption", "Adding "+key.Name+", and waiting until the API server can read with it")
	if err := change(ctx, p, server, cfg, func(c *apiserverv1.EncryptionConfiguration) error { return addKey(c, key) }); err != nil {
		return err
	}
	say(out, "encryption", "Using it, and waiting until the API server writes with it")
	if err := change(ctx, p, server, cfg, useLastKey); err != nil {
		return err
	}
	return retireKeys(ctx, out, p, server, cfg)
}

// retireKeys writes everything with the first key and drops the others.
func retireKeys(ctx context.Context, out io.Writer, p Paths, server encryptedServer, cfg *apiserverv1.EncryptionConfiguration) error {
	if err := awaitLoaded(ctx, p, server); err != nil {
		return err
	}
	for _, r := range cfg.Resources {
		for _, name := range r.Resources {
			n, err := server.Rewrite(ctx, name)
			if err != nil {
				return fmt.Errorf("encrypt %s anew: %w", name, err)
			}
			say(out, "encryption", fmt.Sprintf("Wrote %d %s with %s", n, name, r.Providers[0].Secretbox.Keys[0].Name))
		}
	}
	say(out, "encryption", "Dropping old keys")
	return change(ctx, p, server, cfg, dropOldKeys)
}

func change(ctx context.Context, p Paths, server encryptedServer, cfg *apiserverv1.EncryptionConfiguration, f func(*apiserverv1.EncryptionConfiguration) error) error {
	if err := f(cfg); err != nil {
		return err
	}
	if err := writeEncryption(p, cfg); err != nil {
		return err
	}
	return awaitLoaded(ctx, p, server)
}

func awaitLoaded(ctx context.Context, p Paths, server encryptedServer) error {
	text, err := os.ReadFile(p.encryption())
	if err != nil {
		return err
	}
	hash := fmt.Sprintf("sha256:%x", sha256.Sum256(text))
	return waitFor(ctx, time.Second, "API server to read "+p.encryption(), func(ctx context.Context) error {
		loaded, err := server.Loaded(ctx, hash)
		if err == nil && !loaded {
			err = errors.New("it still uses the one before (it looks every ten seconds)")
		}
		return err
	})
}

// rotated is the real encryptedServer.
type rotated struct {
	http   rest.Interface
	dyn    dynamic.Interface
	mapper meta.RESTMapper
}

func newRotated(cfg *rest.Config) (*rotated, error) {
	disco, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return nil, err
	}
	dyn, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	return &rotated{disco.RESTClient(), dyn, restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(disco))}, nil
}

func (r *rotated) Loaded(ctx context.Context, hash string) (bool, error) {
	text, err := r.http.Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return false, fmt.Errorf("read the API server's metrics: %w", err)
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		if strings.HasPrefix(line, "apiserver_encryption_config_controller_last_config_info{") {
			return strings.Contains(line, `hash="`+hash+`"`), nil
		}
	}
	return false, errors.New("the API server says nothing of an encryption configuration: was it started with --encryption-provider-config?")
}

func (r *rotated) Rewrite(ctx context.Context, resource string) (int, error) {
	gvr, err := r.mapper.ResourceFor(schema.ParseGroupResource(resource).WithVersion(""))
	if err != nil {
		return 0, err
	}
	n := 0
	for next := ""; ; {
		list, err := r.dyn.Resource(gvr).List(ctx, metav1.ListOptions{Limit: 100, Continue: next})
		if err != nil {
			return n, err
		}
		for i := range list.Items {
			o := &list.Items[i]
			// The server writes an unchanged object when it was encrypted with another key than the first.
			_, err := r.dyn.Resource(gvr).Namespace(o.GetNamespace()).Update(ctx, o, metav1.UpdateOptions{})
			// Somebody else's write used the new key too; what is gone needs none.
			if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
				return n, fmt.Errorf("%s/%s: %w", o.GetNamespace(), o.GetName(), err)
			}
			n++
		}
		if next = list.GetContinue(); next == "" {
			return n, nil
		}
	}
}
