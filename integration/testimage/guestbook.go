package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// guestbook is one of three parts. With --backend-port it is the frontend: it writes to agnhost-primary and reads from
// agnhost-replica. Without, it keeps what it is told: as the primary or, with --replicaof, as a copy that the primary
// writes to.
func guestbook(_ *stdio, args []string) error {
	flags := flag.NewFlagSet("guestbook", flag.ContinueOnError)
	httpPort := flags.Int("http-port", 80, "where to listen")
	backend := flags.Int("backend-port", 6379, "of the stores")
	primary := flags.String("replicaof", "", "the primary's name")
	if err := flags.Parse(args); err != nil {
		return err
	}
	given := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if given["backend-port"] {
		return serve(":"+strconv.Itoa(*httpPort), frontend(*backend))
	}
	s := &bookStore{values: map[string]string{}, port: *httpPort}
	if *primary != "" {
		go s.register(*primary)
	}
	return serve(":"+strconv.Itoa(*httpPort), s.routes())
}

func frontend(backend int) *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("/guestbook", func(w http.ResponseWriter, r *http.Request) {
		q := url.Values{"key": {r.FormValue("key")}, "value": {r.FormValue("value")}}
		at := fmt.Sprintf("http://agnhost-replica:%d/get?%s", backend, q.Encode())
		if r.FormValue("cmd") == "set" {
			at = fmt.Sprintf("http://agnhost-primary:%d/set?%s", backend, q.Encode())
		}
		body, err := fetch(at)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		text(w, "%s", body)
	})
	return mux
}

type bookStore struct {
	port int

	mu       sync.Mutex
	values   map[string]string
	replicas []string
}

func (s *bookStore) routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("/get", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		reply(w, s.values[r.FormValue("key")])
	})
	mux.HandleFunc("/set", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.values[r.FormValue("key")] = r.FormValue("value")
		for _, replica := range s.replicas {
			if _, err := fetch("http://" + replica + "/set?" + r.URL.RawQuery); err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
		}
		reply(w, "Updated")
	})
	mux.HandleFunc("/register", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.replicas = append(s.replicas, net.JoinHostPort(host, r.FormValue("port")))
		if err := json.NewEncoder(w).Encode(s.values); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	return mux
}

// register tells the primary of this copy, until it has listened, and takes over what it has.
func (s *bookStore) register(primary string) {
	for ; ; time.Sleep(100 * time.Millisecond) {
		body, err := fetch(fmt.Sprintf("http://%s:%d/register?port=%d", primary, s.port, s.port))
		if err != nil {
			continue
		}
		s.mu.Lock()
		err = json.Unmarshal(body, &s.values)
		s.mu.Unlock()
		if err == nil {
			return
		}
	}
}

func reply(w http.ResponseWriter, data string) {
	text, err := json.Marshal(map[string]string{"data": data})
	if err == nil {
		_, err = w.Write(text)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

func fetch(at string) ([]byte, error) {
	client := &http.Client{Timeout: 5 * time.Second}
	res, err := client.Get(at)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s %s", at, res.Status, body)
	}
	return body, err
}
