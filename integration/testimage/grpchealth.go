package main

import (
	"flag"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// grpcHealthChecking serves the gRPC health protocol. The service turns unhealthy after --delay-unhealthy-sec, or when
// told so by HTTP.
func grpcHealthChecking(s *stdio, args []string) error {
	flags := flag.NewFlagSet("grpc-health-checking", flag.ContinueOnError)
	port := flags.Int("port", 5000, "gRPC")
	httpPort := flags.Int("http-port", 8080, "/make-serving and /make-not-serving")
	delay := flags.Int("delay-unhealthy-sec", -1, "seconds until it turns unhealthy, -1: never")
	service := flags.String("service", "", "the service that is asked for")
	if err := flags.Parse(args); err != nil {
		return err
	}
	state := health.NewServer()
	set := func(st grpc_health_v1.HealthCheckResponse_ServingStatus) {
		state.SetServingStatus(*service, st)
		fmt.Fprintln(s.out, st)
	}
	set(grpc_health_v1.HealthCheckResponse_SERVING)
	if *delay >= 0 {
		time.AfterFunc(time.Duration(*delay)*time.Second, func() { set(grpc_health_v1.HealthCheckResponse_NOT_SERVING) })
	}
	l, err := net.Listen("tcp", ":"+strconv.Itoa(*port))
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, state)
	mux := http.NewServeMux()
	mux.HandleFunc("/make-serving", func(http.ResponseWriter, *http.Request) { set(grpc_health_v1.HealthCheckResponse_SERVING) })
	mux.HandleFunc("/make-not-serving", func(http.ResponseWriter, *http.Request) { set(grpc_health_v1.HealthCheckResponse_NOT_SERVING) })
	ended := make(chan error, 2)
	go func() { ended <- server.Serve(l) }()
	go func() { ended <- serve(":"+strconv.Itoa(*httpPort), mux) }()
	return <-ended
}
