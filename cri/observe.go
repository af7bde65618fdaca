package cri

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc"
)

// observer is Config's Observe.
type observer func(operation string, took time.Duration, err error)

// interceptors put the observer around the calls of a connection.
func (o observer) interceptors() []grpc.UnaryClientInterceptor {
	if o == nil {
		return nil
	}
	return []grpc.UnaryClientInterceptor{func(ctx context.Context, method string, req, reply any, c *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		begun := time.Now()
		err := call(ctx, method, req, reply, c, opts...)
		o(operation(method), time.Since(begun), err)
		return err
	}}
}

// operation is upstream's name for a call of the CRI: its method's words with underscores between, but a sandbox is one
// word, and one call has a name of its own.
func operation(method string) string {
	method = method[strings.LastIndexByte(method, '/')+1:]
	if method == "UpdateContainerResources" {
		return "update_container"
	}
	method = strings.ReplaceAll(method, "PodSandbox", "Podsandbox")
	var out strings.Builder
	for i, r := range method {
		if r >= 'A' && r <= 'Z' {
			if i > 0 {
				out.WriteByte('_')
			}
			r += 'a' - 'A'
		}
		out.WriteRune(r)
	}
	return out.String()
}
