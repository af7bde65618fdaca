package main

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func runTool(t *testing.T, argv ...string) (string, int) {
	t.Helper()
	var out bytes.Buffer
	code := run(&stdio{strings.NewReader(""), &out, &out}, argv)
	return out.String(), code
}

func TestTools(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	if err := os.WriteFile(file, []byte("one\ntwo\nthree\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		argv string
		out  string
		code int
	}{
		{"/bin/echo a b", "a b\n", 0},
		{"testimage echo -n x", "x", 0},
		{"/bin/cat " + file, "one\ntwo\nthree\n", 0},
		{"/bin/head -n 1 " + file, "one\n", 0},
		{"/bin/tail -n 1 " + file, "three\n", 0},
		{"/bin/grep tw " + file, "two\n", 0},
		{"/bin/grep none " + file, "", 1},
		{"/bin/stat -c %a " + file, "640\n", 0},
		{"/bin/test -d " + file, "", 1},
		{"/bin/false", "", 1},
		{"/bin/ls " + dir, "f\n", 0},
	} {
		if out, code := runTool(t, strings.Fields(tt.argv)...); out != tt.out || code != tt.code {
			t.Errorf("%s: got %q, code %d, want %q, code %d", tt.argv, out, code, tt.out, tt.code)
		}
	}
	if _, code := runTool(t, "testimage", "nonsense"); code != 127 {
		t.Errorf("an unknown tool ends with %d, want 127", code)
	}
}

func TestShell(t *testing.T) {
	for command, want := range map[string]struct {
		out  string
		code int
	}{
		"echo a && echo b":                  {"a\nb\n", 0},
		"exit 7":                            {"", 7},
		"for i in 1 2; do echo $i; done":    {"1\n2\n", 0},
		"x=y; test \"$x\" = y && echo same": {"same\n", 0},
		"false || echo other":               {"other\n", 0},
	} {
		if out, code := runTool(t, "/bin/sh", "-c", command); out != want.out || code != want.code {
			t.Errorf("%s: got %q, code %d, want %q, code %d", command, out, code, want.out, want.code)
		}
	}
}

func TestLoadCountsFailures(t *testing.T) {
	server := httptest.NewServer(netexecHandler("me"))
	target := server.Listener.Addr().String()
	out, _ := runTool(t, "testimage", "load", "--target", target, "--for", "300ms", "--long", "2")
	if !strings.Contains(out, `"failed":0`) || !strings.Contains(out, `"broken":0`) || strings.Contains(out, `"tried":0`) {
		t.Errorf("a healthy server gives %s", out)
	}
	server.Close()
	out, _ = runTool(t, "testimage", "load", "--target", target, "--for", "100ms", "--long", "2")
	if strings.Contains(out, `"failed":0`) || !strings.Contains(out, `"broken":2`) {
		t.Errorf("no server gives %s", out)
	}
}

func TestVerifyByIssuer(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	body := encode([]byte(`{"alg":"RS256","kid":"k"}`)) + "." + encode([]byte(`{"iss":"https://issuer","sub":"me","aud":["x"],"exp":9}`))
	sum := sha256.Sum256([]byte(body))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	get := func(url string, into any) error {
		text := `{"issuer":"https://issuer","jwks_uri":"https://keys"}`
		if url == "https://keys" {
			text = `{"keys":[{"kid":"k","kty":"RSA","n":"` + encode(key.N.Bytes()) + `","e":"AQAB"}]}`
		}
		return json.Unmarshal([]byte(text), into)
	}
	if c, err := verifyByIssuer(body+"."+encode(signature), get); err != nil || c.Subject != "me" {
		t.Errorf("a good token: %v, %v", c, err)
	}
	signature[0] ^= 1
	if _, err := verifyByIssuer(body+"."+encode(signature), get); err == nil {
		t.Error("a forged token was believed")
	}
}
