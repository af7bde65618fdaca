package storagemigrator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	migrationv1 "k8s.io/api/storagemigration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"
)

// known is a mapper that learns nothing new.
type known struct{ meta.RESTMapper }

func (known) Reset() {}

func mapper() known {
	m := meta.NewDefaultRESTMapper(nil)
	m.Add(corev1.SchemeGroupVersion.WithKind("Secret"), meta.RESTScopeNamespace)
	return known{m}
}

func migration(resource, since string, conditions ...metav1.Condition) *migrationv1.StorageVersionMigration {
	return &migrationv1.StorageVersionMigration{ObjectMeta: metav1.ObjectMeta{Name: "m"},
		Spec:   migrationv1.StorageVersionMigrationSpec{Resource: metav1.GroupResource{Resource: resource}},
		Status: migrationv1.StorageVersionMigrationStatus{ResourceVersion: since, Conditions: conditions}}
}

// said is the status of a migration in words.
func said(m *migrationv1.StorageVersionMigration) string {
	words := []string{"since " + m.Status.ResourceVersion}
	for _, c := range m.Status.Conditions {
		words = append(words, strings.TrimSpace(fmt.Sprint(c.Type, "=", c.Status, " ", c.Message)))
	}
	return strings.Join(words, ", ")
}

// One sync takes a migration a step further: what it writes is what the next begins from.
func TestSync(t *testing.T) {
	resource := schema.GroupResource{Resource: "secrets"}
	for _, tt := range []struct {
		name    string
		given   *migrationv1.StorageVersionMigration
		answers map[string]error // to patches, by name; "list" to lists
		patched []string
		want    string
		fails   bool
	}{
		{"begins", migration("secrets", ""), nil, nil, "since 100, Running=True", false},
		{"writes what is older", migration("secrets", "50"), nil, []string{"old", "other", "same"}, "since 50, Running=False, Succeeded=True", false},
		{"lets those be that changed or went", migration("secrets", "50"), map[string]error{
			"old": apierrors.NewConflict(resource, "old", errors.New("changed")), "other": apierrors.NewNotFound(resource, "other")}, []string{"old", "other", "same"},
			"since 50, Running=False, Succeeded=True", false},
		{"tries again", migration("secrets", "50"), map[string]error{"other": apierrors.NewTooManyRequests("later", 1)}, []string{"old", "other"}, "since 50", true},
		{"gives up what is refused", migration("secrets", "50"), map[string]error{"old": apierrors.NewBadRequest("no")}, []string{"old"},
			"since 50, Running=False, Failed=True migrate Secret n/old: no", false},
		{"knows no such resource", migration("flavours", ""), nil, nil, "since , Running=False, Failed=True there is no resource flavours", false},
		{"takes no part of a name", migration("secret", ""), nil, nil, "since , Running=False, Failed=True there is no resource secret", false},
		{"cannot list it", migration("secrets", ""), map[string]error{"list": apierrors.NewMethodNotSupported(resource, "list")}, nil,
			`since , Running=False, Failed=True list secrets: list is not supported on resources of kind "secrets"`, false},
		{"is not answered", migration("secrets", ""), map[string]error{"list": apierrors.NewForbidden(resource, "", errors.New("not yet"))}, nil, "since ", true},
		{"has ended", migration("secrets", "50", metav1.Condition{Type: "Succeeded", Status: "True"}), nil, nil, "since 50, Succeeded=True", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client, objects := fake.NewClientset(tt.given), metadatafake.NewSimpleMetadataClient(runtime.NewScheme())
			objects.PrependReactor("list", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
				list := &metav1.List{ListMeta: metav1.ListMeta{ResourceVersion: "100"}}
				for name, version := range map[string]string{"old": "7", "other": "49", "same": "50", "young": "51"} {
					o := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, ResourceVersion: version, UID: "u"}}
					list.Items = append(list.Items, runtime.RawExtension{Object: o})
				}
				slices.SortFunc(list.Items, func(a, b runtime.RawExtension) int {
					return strings.Compare(a.Object.(metav1.Object).GetName(), b.Object.(metav1.Object).GetName())
				})
				if err := tt.answers["list"]; err != nil {
					return true, nil, err
				}
				return true, list, nil
			})
			var patched []string
			objects.PrependReactor("patch", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
				p := a.(clienttesting.PatchAction)
				patched = append(patched, p.GetName())
				if text := string(p.GetPatch()); !strings.Contains(text, `"uid":"u"`) || !strings.Contains(text, `"kind":"Secret"`) || !strings.Contains(text, `"resourceVersion":`) {
					t.Errorf("patch %s", text)
				}
				return true, &metav1.PartialObjectMetadata{}, tt.answers[p.GetName()]
			})
			shared := informers.NewSharedInformerFactory(client, 0)
			c, err := New(client, objects, mapper(), shared, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			shared.Start(ctx.Done())
			shared.WaitForCacheSync(ctx.Done())
			if err := c.sync(ctx, "m"); (err != nil) != tt.fails {
				t.Errorf("sync: %v", err)
			}
			got, err := client.StoragemigrationV1().StorageVersionMigrations().Get(ctx, "m", metav1.GetOptions{})
			if err != nil || said(got) != tt.want || !slices.Equal(patched, tt.patched) {
				t.Errorf("%q after patches of %v, want %q after %v (%v)", said(got), patched, tt.want, tt.patched, err)
			}
		})
	}
}
