package scheme

import (
	"fmt"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
)

// addConnectOptions lets query parameters be read into the option kinds of connect subresources.
func addConnectOptions(s *runtime.Scheme) error {
	for _, to := range []any{
		&corev1.PodLogOptions{}, &corev1.PodExecOptions{}, &corev1.PodAttachOptions{}, &corev1.PodPortForwardOptions{},
		&corev1.PodProxyOptions{}, &corev1.NodeProxyOptions{}, &corev1.ServiceProxyOptions{},
	} {
		err := s.AddConversionFunc((*url.Values)(nil), to, func(from, to any, _ conversion.Scope) error {
			return readQuery(*from.(*url.Values), to)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// readQuery fills the fields of *into from query parameters of their JSON names. Unknown parameters are
// ignored, as for every other request.
func readQuery(query url.Values, into any) error {
	v := reflect.ValueOf(into).Elem()
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		values, ok := query[name]
		if name == "" || !ok || len(values) == 0 {
			continue
		}
		if err := readParameter(values, v.Field(i)); err != nil {
			return fmt.Errorf("query parameter %s: %w", name, err)
		}
	}
	return nil
}

func readParameter(values []string, into reflect.Value) error {
	if into.Kind() == reflect.Pointer {
		if values[0] == "" && into.Type().Elem().Kind() != reflect.String {
			return nil
		}
		p := reflect.New(into.Type().Elem())
		if err := readParameter(values, p.Elem()); err != nil {
			return err
		}
		into.Set(p)
		return nil
	}
	if into.Type() == reflect.TypeFor[metav1.Time]() {
		t, err := time.Parse(time.RFC3339, values[0])
		if err != nil {
			return err
		}
		into.Set(reflect.ValueOf(metav1.NewTime(t)))
		return nil
	}
	switch into.Kind() {
	case reflect.String:
		into.SetString(values[0])
	case reflect.Bool:
		// A bare ?follow means true, as it does for upstream.
		into.SetBool(values[0] == "" || (values[0] != "0" && !strings.EqualFold(values[0], "false")))
	case reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(values[0], 10, into.Type().Bits())
		if err != nil {
			return err
		}
		into.SetInt(n)
	case reflect.Slice:
		return readList(values, into)
	}
	return nil
}

// readList takes the parameter's repetitions, and for numbers also commas within one, as port lists use them.
func readList(values []string, into reflect.Value) error {
	for _, value := range values {
		parts := []string{value}
		if into.Type().Elem().Kind() != reflect.String {
			parts = strings.Split(value, ",")
		}
		for _, part := range parts {
			e := reflect.New(into.Type().Elem()).Elem()
			if err := readParameter([]string{part}, e); err != nil {
				return err
			}
			into.Set(reflect.Append(into, e))
		}
	}
	return nil
}
