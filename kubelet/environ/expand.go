package environ

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// expand replaces each $(NAME) that lookup knows by its value. One that lookup does not know stays as written, $$ is
// a literal dollar sign, and a dollar sign before anything else is kept.
func expand(s string, lookup func(string) (string, bool)) string {
	var out strings.Builder
	for {
		i := strings.IndexByte(s, '$')
		if i < 0 || i+1 == len(s) {
			out.WriteString(s)
			return out.String()
		}
		out.WriteString(s[:i])
		s = s[i:]
		end := 2
		switch s[1] {
		case '$':
			out.WriteByte('$')
		case '(':
			n := strings.IndexByte(s, ')')
			if n < 0 {
				out.WriteString(s[:2])
				break
			}
			end = n + 1
			if value, ok := lookup(s[2:n]); ok {
				out.WriteString(value)
			} else {
				out.WriteString(s[:end])
			}
		default:
			out.WriteString(s[:2])
		}
		s = s[end:]
	}
}

func lookupIn(env []v1.EnvVar) func(string) (string, bool) {
	values := make(map[string]string, len(env))
	for _, v := range env {
		values[v.Name] = v.Value
	}
	return func(name string) (string, bool) {
		value, ok := values[name]
		return value, ok
	}
}

// Expand replaces $(NAME) in each of a container's command or argument words by the values in env, which Make gave.
func Expand(words []string, env []v1.EnvVar) []string {
	lookup := lookupIn(env)
	out := make([]string, len(words))
	for i, word := range words {
		out[i] = expand(word, lookup)
	}
	return out
}

// ExpandPath replaces $(NAME) in a volume mount's subPathExpr. Unlike in a command, a name without a value is an
// error, because the path would lead somewhere nobody meant.
func ExpandPath(expr string, env []v1.EnvVar) (string, error) {
	lookup := lookupIn(env)
	var missing string
	out := expand(expr, func(name string) (string, bool) {
		value, ok := lookup(name)
		if (!ok || value == "") && missing == "" {
			missing = name
		}
		return value, true
	})
	if missing != "" {
		return "", fmt.Errorf("missing value for %q", missing)
	}
	return out, nil
}
