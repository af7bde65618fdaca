// Package documents serves the OpenAPI documents of the built-in kinds, which it writes when somebody asks for them.
//
// The library writes them all when the server starts and keeps them: a third of its memory, and of the work of starting.
// But few clients ask for them, each for one or two groups, and keep what they got for as long as its hash stays. So the
// hash is made of the program and of what it serves, not of the document.
package documents

import (
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/emicklei/go-restful/v3"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/apiserver/pkg/server/routes"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/handler3"
)

const (
	rootV2 = "/openapi/v2"
	rootV3 = "/openapi/v3"
	// kept is how long a document stays after somebody asked for it last.
	kept = 5 * time.Minute
)

// Config says what is documented. All fields are needed.
type Config struct {
	V2 *common.Config
	V3 *common.OpenAPIV3Config
	// Services has the routes of all groups, of which there are no more once the first request comes.
	Services *restful.Container
	// Build is another for every program that may document otherwise.
	Build string
}

// Install serves the documents at m.
func Install(m *mux.PathRecorderMux, cfg Config) {
	v2 := &document{write: func() http.Handler {
		one := mux.NewPathRecorderMux("openapi")
		routes.OpenAPI{Config: cfg.V2}.InstallV2(cfg.Services, one)
		return one
	}}
	v3 := &groups{cfg: cfg}
	m.Handle(rootV2, v2)
	m.HandleFunc(rootV3, v3.list)
	m.HandlePrefix(rootV3+"/", http.HandlerFunc(v3.serve))
}

// document is written when it is asked for, and forgotten when nobody asks any more.
type document struct {
	write func() http.Handler

	mu      sync.Mutex
	written http.Handler // nil: not now
	forget  *time.Timer
}

func (d *document) ServeHTTP(w http.ResponseWriter, r *http.Request) { d.get().ServeHTTP(w, r) }

func (d *document) get() http.Handler {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.written == nil {
		d.written = d.write()
	}
	if d.forget == nil {
		d.forget = time.AfterFunc(kept, func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.written = nil
		})
	} else {
		d.forget.Reset(kept)
	}
	return d.written
}

// group is what is known of the document of a group's version without writing it.
type group struct {
	document
	hash string
}

// groups are all of them, by their paths, as in apis/apps/v1.
type groups struct {
	cfg  Config
	once sync.Once
	all  map[string]*group
	body []byte // the list of all
	hash string
	at   time.Time
}

func (g *groups) known() map[string]*group {
	g.once.Do(func() {
		g.all, g.at = map[string]*group{}, time.Now()
		list := handler3.OpenAPIV3Discovery{Paths: map[string]handler3.OpenAPIV3DiscoveryGroupVersion{}}
		for _, s := range g.cfg.Services.RegisteredWebServices() {
			name := strings.TrimPrefix(s.RootPath(), "/")
			one := &group{hash: hash(g.cfg.Build, s)}
			one.write = func() http.Handler {
				alone, m := restful.NewContainer(), mux.NewPathRecorderMux("openapi")
				alone.Add(s)
				routes.OpenAPI{V3Config: g.cfg.V3}.InstallV3(alone, m)
				return m
			}
			g.all[name] = one
			list.Paths[name] = handler3.OpenAPIV3DiscoveryGroupVersion{ServerRelativeURL: address(name, one.hash)}
		}
		g.body, _ = json.Marshal(list) // of strings alone
		g.hash = fmt.Sprintf("%X", sha512.Sum512(g.body))
	})
	return g.all
}

// hash is another where the program or the routes are.
func hash(build string, s *restful.WebService) string {
	var lines []string
	for _, r := range s.Routes() {
		lines = append(lines, r.Method+" "+r.Path)
	}
	slices.Sort(lines)
	return fmt.Sprintf("%X", sha512.Sum512([]byte(build+"\n"+strings.Join(lines, "\n"))))
}

func address(name, hash string) string {
	return (&url.URL{Path: rootV3 + "/" + name, RawQuery: url.Values{"hash": {hash}}.Encode()}).String()
}

func (g *groups) list(w http.ResponseWriter, r *http.Request) {
	g.known()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Etag", strconv.Quote(g.hash))
	http.ServeContent(w, r, rootV3, g.at, strings.NewReader(string(g.body)))
}

func (g *groups) serve(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, rootV3+"/")
	one, found := g.known()[name]
	if !found {
		http.NotFound(w, r)
		return
	}
	if asked := r.URL.Query().Get("hash"); asked != "" {
		if asked != one.hash {
			http.Redirect(w, r, address(name, one.hash), http.StatusMovedPermanently)
			return
		}
		// Whoever has this one need not ask again.
		w.Header().Set("Cache-Control", "public, immutable")
		w.Header().Set("Expires", time.Now().AddDate(1, 0, 0).Format(time.RFC1123))
		plain := *r.URL
		plain.RawQuery = ""
		r = r.WithContext(r.Context())
		r.URL = &plain
	}
	one.ServeHTTP(w, r)
}
