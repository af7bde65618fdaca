package main

import (
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// review is what admission and conversion reviews have in common, and what of
// them the webhook reads and writes.
type review struct {
	Kind       string `json:"kind"`
	APIVersion string `json:"apiVersion"`
	Request    *struct {
		UID               string            `json:"uid"`
		Object            json.RawMessage   `json:"object"`
		OldObject         json.RawMessage   `json:"oldObject"`
		DesiredAPIVersion string            `json:"desiredAPIVersion"`
		Objects           []json.RawMessage `json:"objects"`
	} `json:"request,omitempty"`
	Response map[string]any `json:"response,omitempty"`
}

// webhook answers AdmissionReviews and ConversionReviews as the path says:
// /allow, /deny, /deny-if/HEX (the object's JSON holds the text), /patch/HEX (a
// JSON patch), /patch-if/HEX/HEX, /delay/SECONDS, /convert.
func webhook(_ *stdio, args []string) error {
	flags := flag.NewFlagSet("webhook", flag.ContinueOnError)
	dir := flags.String("tls-dir", "/webhook.local.config/certificates", "folder of tls.crt and tls.key")
	port := flags.Int("port", 8444, "HTTPS port")
	if err := flags.Parse(args); err != nil {
		return err
	}
	server := &http.Server{Addr: ":" + strconv.Itoa(*port), Handler: http.HandlerFunc(answerReview)}
	if _, err := os.Stat(*dir + "/tls.crt"); err != nil {
		return err
	}
	return server.ListenAndServeTLS(*dir+"/tls.crt", *dir+"/tls.key")
}

func answerReview(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/readyz" {
		text(w, "ok")
		return
	}
	body, err := io.ReadAll(r.Body)
	var rev review
	if err == nil {
		err = json.Unmarshal(body, &rev)
	}
	if err != nil || rev.Request == nil {
		http.Error(w, fmt.Sprintf("not a review: %v", err), http.StatusBadRequest)
		return
	}
	rev.Response, err = decideReview(r.URL.Path, &rev)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	rev.Response["uid"] = rev.Request.UID
	rev.Request = nil
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(rev)
}

func decideReview(path string, rev *review) (map[string]any, error) {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	var hexed []string
	for _, p := range parts[1:] {
		b, err := hex.DecodeString(p)
		if err != nil && parts[0] != "delay" {
			return nil, fmt.Errorf("%s is not hexadecimal", p)
		}
		hexed = append(hexed, string(b))
	}
	allow := map[string]any{"allowed": true}
	deny := map[string]any{"allowed": false, "status": map[string]any{"message": "this webhook denies it", "reason": "Denied"}}
	holds := func(part string) bool {
		return strings.Contains(string(rev.Request.Object), part) || strings.Contains(string(rev.Request.OldObject), part)
	}
	patch := func(p string) map[string]any {
		return map[string]any{"allowed": true, "patchType": "JSONPatch", "patch": []byte(p)}
	}
	switch action := parts[0]; {
	case action == "allow":
		return allow, nil
	case action == "deny":
		return deny, nil
	case action == "deny-if" && len(hexed) == 1:
		if holds(hexed[0]) {
			return deny, nil
		}
		return allow, nil
	case action == "patch" && len(hexed) == 1:
		return patch(hexed[0]), nil
	case action == "patch-if" && len(hexed) == 2:
		if holds(hexed[0]) {
			return patch(hexed[1]), nil
		}
		return allow, nil
	case action == "delay" && len(parts) == 2:
		seconds, err := strconv.Atoi(parts[1])
		if err != nil {
			return nil, err
		}
		time.Sleep(time.Duration(seconds) * time.Second)
		return allow, nil
	case action == "convert":
		return convertObjects(rev.Request.DesiredAPIVersion, rev.Request.Objects)
	}
	return nil, fmt.Errorf("unknown path %s", path)
}

// convertObjects changes hostPort "H:P", as in .../v1, to host and port, as in
// .../v2, and back.
func convertObjects(version string, objects []json.RawMessage) (map[string]any, error) {
	converted := []map[string]any{}
	for _, raw := range objects {
		var o map[string]any
		if err := json.Unmarshal(raw, &o); err != nil {
			return nil, err
		}
		o["apiVersion"] = version
		both, isOld := o["hostPort"].(string)
		host, isNew := o["host"].(string)
		switch {
		case isOld && strings.HasSuffix(version, "/v2"):
			delete(o, "hostPort")
			o["host"], o["port"], _ = strings.Cut(both, ":")
		case isNew && strings.HasSuffix(version, "/v1"):
			o["hostPort"] = fmt.Sprintf("%s:%v", host, o["port"])
			delete(o, "host")
			delete(o, "port")
		}
		converted = append(converted, o)
	}
	return map[string]any{"convertedObjects": converted, "result": map[string]any{"status": "Success"}}, nil
}
