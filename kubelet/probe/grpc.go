package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// grpc asks a server of the gRPC health protocol.
func (a actions) grpc(ctx context.Context, t target, limit time.Duration) answer {
	service := ""
	if t.probe.GRPC.Service != nil {
		service = *t.probe.GRPC.Service
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	conn, err := grpc.NewClient("passthrough:///"+net.JoinHostPort(t.ip, strconv.Itoa(int(t.probe.GRPC.Port))),
		grpc.WithUserAgent("kube-probe/"+a.version),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return dialer(limit).DialContext(ctx, "tcp", addr)
		}))
	if err != nil {
		return answer{err: err}
	}
	res, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
	closeErr := conn.Close()
	if err != nil {
		return answer{result: failure, output: explainGRPC(err, service, limit)}
	}
	if res.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		return answer{result: failure, output: fmt.Sprintf("service unhealthy (responded with %q)", res.GetStatus().String())}
	}
	if closeErr != nil && !errors.Is(closeErr, grpc.ErrClientConnClosing) {
		return answer{result: success, output: closeErr.Error()}
	}
	return answer{result: success, output: "service healthy"}
}

func explainGRPC(err error, service string, limit time.Duration) string {
	switch status.Code(err) {
	case codes.Unimplemented:
		return fmt.Sprintf("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): %s", status.Convert(err).Message())
	case codes.DeadlineExceeded:
		return fmt.Sprintf("timeout: health rpc did not complete within %v", limit)
	case codes.Unavailable:
		return fmt.Sprintf("error: failed to connect service %q within %v: %s", service, limit, status.Convert(err).Message())
	}
	return fmt.Sprintf("error: health rpc probe failed: %+v", err)
}
