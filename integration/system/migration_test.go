package system

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	migrationv1 "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestStoredObjectsMigrate has an object that is stored in another form than the API server writes stored anew, and none that is not.
func TestStoredObjectsMigrate(t *testing.T) {
	c, ns := cluster, cluster.Namespace(t)
	maps, stored := c.Client.CoreV1().ConfigMaps(ns), map[string]*corev1.ConfigMap{}
	for _, name := range []string{"old", "new"} {
		made, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"k": "v"}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		stored[name] = made
	}
	key := "/registry/configmaps/" + ns + "/old"
	inEtcd := func() string {
		t.Helper()
		raw, err := c.Orlop("etcdctl", "--name", c.Name, "get", key, "--print-value-only")
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	old := stored["old"].DeepCopy()
	old.TypeMeta, old.ResourceVersion = metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ""
	text, err := json.Marshal(old)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Orlop("etcdctl", "--name", c.Name, "put", key, string(text)); err != nil {
		t.Fatal(err)
	}
	if raw := inEtcd(); !strings.HasPrefix(raw, "{") {
		t.Fatalf("etcd has %.40q", raw)
	}
	migrations := c.Client.StoragemigrationV1().StorageVersionMigrations()
	for resource, want := range map[string]migrationv1.MigrationConditionType{"configmaps": migrationv1.MigrationSucceeded, "flavours": migrationv1.MigrationFailed} {
		m := &migrationv1.StorageVersionMigration{ObjectMeta: metav1.ObjectMeta{Name: ns + "-" + resource}, Spec: migrationv1.StorageVersionMigrationSpec{Resource: metav1.GroupResource{Resource: resource}}}
		if _, err := migrations.Create(t.Context(), m, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = migrations.Delete(context.Background(), m.Name, metav1.DeleteOptions{}) })
		c.Eventually(t, time.Minute, fmt.Sprintf("the migration of %s to be %s", resource, want), func(ctx context.Context) error {
			got, err := migrations.Get(ctx, m.Name, metav1.GetOptions{})
			if err == nil && !meta.IsStatusConditionTrue(got.Status.Conditions, string(want)) {
				err = fmt.Errorf("it is %+v", got.Status)
			}
			return err
		})
	}
	if raw := inEtcd(); !strings.HasPrefix(raw, "k8s\x00") {
		t.Errorf("etcd has %.40q", raw)
	}
	after, err := maps.Get(t.Context(), "old", metav1.GetOptions{})
	if err != nil || after.UID != old.UID || after.Data["k"] != "v" || len(after.ManagedFields) != len(old.ManagedFields) {
		t.Errorf("the object became %+v (%v)", after, err)
	}
	if untouched, err := maps.Get(t.Context(), "new", metav1.GetOptions{}); err != nil || untouched.ResourceVersion != stored["new"].ResourceVersion {
		t.Errorf("an object that was stored well became %+v (%v)", untouched, err)
	}
}
