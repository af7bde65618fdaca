package apiserver

import (
	"context"
	"net"
	"strings"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/server/egressselector"
	genericoptions "k8s.io/apiserver/pkg/server/options"
)

// redialEvery is how soon a refused connection to etcd is tried again.
const redialEvery = 250 * time.Millisecond

// redialEtcd lets the server find etcd again at once, however long it was away. Left to itself, gRPC waits longer after every
// refusal, up to two minutes, so that after an outage of a minute the server is without etcd for twenty seconds more. It gives a
// connection twenty seconds to come about, of which we make use.
func redialEtcd(o *genericoptions.EtcdOptions) {
	for _, server := range o.StorageConfig.Transport.ServerList {
		if strings.HasPrefix(server, "unix:") {
			return // the library hands on no path to a dialer
		}
	}
	dial := redial((&net.Dialer{}).DialContext)
	o.StorageConfig.Transport.EgressLookup = func(egressselector.NetworkContext) (utilnet.DialFunc, error) { return dial, nil }
}

// redial tries to connect until it works or the context ends, and then tells the last refusal.
func redial(dial utilnet.DialFunc) utilnet.DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		for {
			conn, err := dial(ctx, network, address)
			if err == nil || ctx.Err() != nil {
				return conn, err
			}
			select {
			case <-ctx.Done():
				return nil, err
			case <-time.After(redialEvery):
			}
		}
	}
}
