package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	authv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// server is an API server that holds what a test put into it.
type server struct {
	maps    map[string]map[string]string
	secrets map[string]map[string][]byte
	claims  map[string]*v1.PersistentVolumeClaim
	volumes map[string]*v1.PersistentVolume
	now     time.Time
	life    time.Duration
	tokens  int
	down    bool

	bundles  []*certificatesv1.ClusterTrustBundle
	requests []*certificatesv1.PodCertificateRequest
	decide   func(*certificatesv1.PodCertificateRequest) (*certificatesv1.PodCertificateRequest, error)
}

func (s *server) ConfigMap(_ context.Context, _, name string) (*v1.ConfigMap, error) {
	if data, ok := s.maps[name]; ok {
		return &v1.ConfigMap{Data: data}, nil
	}
	return nil, apierrors.NewNotFound(v1.Resource("configmap"), name)
}

func (s *server) Secret(_ context.Context, _, name string) (*v1.Secret, error) {
	if data, ok := s.secrets[name]; ok {
		return &v1.Secret{Data: data}, nil
	}
	return nil, apierrors.NewNotFound(v1.Resource("secret"), name)
}

func (s *server) Claim(_ context.Context, _, name string) (*v1.PersistentVolumeClaim, error) {
	if c, ok := s.claims[name]; ok {
		return c, nil
	}
	return nil, apierrors.NewNotFound(v1.Resource("persistentvolumeclaim"), name)
}

func (s *server) Volume(_ context.Context, name string) (*v1.PersistentVolume, error) {
	return s.volumes[name], nil
}

func (s *server) Token(_ context.Context, _, _ string, req *authv1.TokenRequest) (*authv1.TokenRequest, error) {
	if s.down {
		return nil, errors.New("no answer")
	}
	s.tokens++
	req.Status = authv1.TokenRequestStatus{
		Token:               strings.Repeat("t", s.tokens),
		ExpirationTimestamp: metav1.NewTime(s.now.Add(s.life)),
	}
	return req, nil
}

func (s *server) TrustBundles(context.Context) ([]*certificatesv1.ClusterTrustBundle, error) {
	return s.bundles, nil
}

func (s *server) RequestCertificate(_ context.Context, req *certificatesv1.PodCertificateRequest) (*certificatesv1.PodCertificateRequest, error) {
	if s.down {
		return nil, errors.New("no answer")
	}
	req.Name = fmt.Sprintf("r%d", len(s.requests))
	s.requests = append(s.requests, req)
	return req, nil
}

func (s *server) CertificateRequest(_ context.Context, _, name string) (*certificatesv1.PodCertificateRequest, error) {
	for _, req := range s.requests {
		if req.Name == name {
			return s.decide(req)
		}
	}
	return nil, apierrors.NewNotFound(certificatesv1.Resource("podcertificaterequests"), name)
}

func newVolumes(t *testing.T, s *server) *Volumes {
	t.Helper()
	v, err := New(Config{
		PodsDir: filepath.Join(t.TempDir(), "pods"), Source: s, Log: slog.New(slog.DiscardHandler),
		Now: func() time.Time { return s.now },
	})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func podWith(vols ...v1.Volume) *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u", Labels: map[string]string{"a": "1"}},
		Spec:       v1.PodSpec{Volumes: vols, Containers: []v1.Container{{Name: "c"}}},
	}
}

func vol(name string, src v1.VolumeSource) v1.Volume { return v1.Volume{Name: name, VolumeSource: src} }

func configMapVolume(name string, optional bool, items ...v1.KeyToPath) v1.VolumeSource {
	return v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{
		LocalObjectReference: v1.LocalObjectReference{Name: name}, Optional: &optional, Items: items}}
}

// show lists what a reader sees in dir: path, mode and content.
func show(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	var walk func(string)
	walk = func(rel string) {
		entries, err := os.ReadDir(filepath.Join(dir, rel))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			p := filepath.Join(rel, e.Name())
			info, err := os.Stat(filepath.Join(dir, p))
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case strings.HasPrefix(e.Name(), ".."):
			case info.IsDir():
				walk(p)
			default:
				body, err := os.ReadFile(filepath.Join(dir, p))
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, p+" "+info.Mode().String()+" "+string(body))
			}
		}
	}
	walk("")
	return out
}

func TestConfigMap(t *testing.T) {
	s := &server{maps: map[string]map[string]string{"cm": {"a": "1", "b": "2"}}, now: time.Unix(1e9, 0)}
	v := newVolumes(t, s)
	mode := int32(0o400)
	all := podWith(vol("v", configMapVolume("cm", false)))
	got, err := v.Setup(t.Context(), all, Inputs{})
	if err != nil {
		t.Fatal(err)
	}
	dir := got["v"].HostPath
	if want := "pods/u/volumes/kubernetes.io~configmap/v"; !strings.HasSuffix(dir, want) || !got["v"].ReadOnly || got["v"].Name != "v" {
		t.Errorf("want read-only %s, got %+v", want, got["v"])
	}
	if diff := cmp.Diff([]string{"a -rw-r--r-- 1", "b -rw-r--r-- 2"}, show(t, dir)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	before, err := os.Readlink(filepath.Join(dir, "..data"))
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Refresh(t.Context(), all, Inputs{}); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Readlink(filepath.Join(dir, "..data")); err != nil || after != before {
		t.Errorf("nothing changed, but %s became %s, %v", before, after, err)
	}
	s.maps["cm"] = map[string]string{"a": "new", "c": "3"}
	if err := v.Refresh(t.Context(), all, Inputs{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a -rw-r--r-- new", "c -rw-r--r-- 3"}, show(t, dir)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	picked := podWith(vol("w", configMapVolume("cm", false, v1.KeyToPath{Key: "a", Path: "x/y", Mode: &mode})))
	if got, err = v.Setup(t.Context(), picked, Inputs{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"x/y -r-------- new"}, show(t, got["w"].HostPath)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	optional := podWith(vol("o", configMapVolume("later", true)))
	if got, err = v.Setup(t.Context(), optional, Inputs{}); err != nil || len(show(t, got["o"].HostPath)) != 0 {
		t.Errorf("want an empty volume, got %v", err)
	}
	s.maps["later"] = map[string]string{"k": "v"}
	if err := v.Refresh(t.Context(), optional, Inputs{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"k -rw-r--r-- v"}, show(t, got["o"].HostPath)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestErrors(t *testing.T) {
	v := newVolumes(t, &server{maps: map[string]map[string]string{"cm": {}}, claims: map[string]*v1.PersistentVolumeClaim{"pending": {}}})
	file := v1.HostPathFile
	for _, tt := range []struct {
		src         v1.VolumeSource
		want        string
		unsupported bool
	}{
		{configMapVolume("y", false), `MountVolume.SetUp failed for volume "x" : configmap "y" not found`, false},
		{configMapVolume("cm", false, v1.KeyToPath{Key: "k", Path: "k"}), `MountVolume.SetUp failed for volume "x" : configmap references non-existent config key: k`, false},
		{v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: "/", Type: &file}}, `MountVolume.SetUp failed for volume "x" : hostPath type check failed: / is not a file`, false},
		{v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "pending"}}, `MountVolume.SetUp failed for volume "x" : error processing PVC ns/pending: PVC is not bound`, false},
		{v1.VolumeSource{NFS: &v1.NFSVolumeSource{}}, `MountVolume.SetUp failed for volume "x" : volume kind nfs: not supported by this kubelet`, true},
	} {
		_, err := v.Setup(t.Context(), podWith(vol("x", tt.src)), Inputs{})
		if err == nil || err.Error() != tt.want || errors.Is(err, ErrUnsupported) != tt.unsupported {
			t.Errorf("want %q, got %v", tt.want, err)
		}
		if e, ok := errors.AsType[*Error](err); !ok || e.Volume != "x" {
			t.Errorf("want an *Error for x, got %#v", err)
		}
	}
}

func TestHostPathTypes(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mknod(filepath.Join(dir, "sock"), unix.S_IFSOCK|0o600, 0); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		path string
		kind v1.HostPathType
		ok   bool
	}{
		{"none", v1.HostPathUnset, true},
		{"none", v1.HostPathDirectory, false},
		{"new/dir", v1.HostPathDirectoryOrCreate, true},
		{"new/dir", v1.HostPathDirectory, true},
		{"file", v1.HostPathFileOrCreate, true},
		{"file", v1.HostPathFile, true},
		{"file", v1.HostPathDirectoryOrCreate, false},
		{"new", v1.HostPathFileOrCreate, false},
		{"no/such/file", v1.HostPathFileOrCreate, false},
		{"sock", v1.HostPathSocket, true},
		{"sock", v1.HostPathCharDev, false},
		{"/dev/null", v1.HostPathCharDev, true},
		{"/dev/null", v1.HostPathBlockDev, false},
	} {
		path := tt.path
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		if err := checkHostPath(path, tt.kind); (err == nil) != tt.ok {
			t.Errorf("%s as %q: want ok %v, got %v", tt.path, tt.kind, tt.ok, err)
		}
	}
}

func TestTokenAge(t *testing.T) {
	s := &server{now: time.Unix(1e9, 0), life: time.Hour}
	v := newVolumes(t, s)
	src := &v1.ServiceAccountTokenProjection{Path: "token"}
	for _, step := range []struct {
		pass time.Duration
		down bool
		want int // which token
		err  bool
	}{
		{0, false, 1, false},
		{47 * time.Minute, false, 1, false},
		{2 * time.Minute, false, 2, false}, // past 80 %
		{50 * time.Minute, true, 2, false}, // still valid, and no other to be had
		{11 * time.Minute, true, 0, true},  // expired
		{0, false, 3, false},
	} {
		s.now, s.down = s.now.Add(step.pass), step.down
		got, err := v.token(t.Context(), podWith(), src)
		if (err != nil) != step.err || len(got) != step.want {
			t.Errorf("after %v: want token %d, got %d, %v", step.pass, step.want, len(got), err)
		}
	}
	if long := (token{"t", s.now, s.now.Add(365 * 24 * time.Hour)}); long.fresh(s.now.Add(25 * time.Hour)) {
		t.Error("a token must be renewed after a day, however long it lives")
	}
}

func TestTokenUser(t *testing.T) {
	one, two := int64(1), int64(2)
	as := func(u *int64) v1.Container { return v1.Container{SecurityContext: &v1.SecurityContext{RunAsUser: u}} }
	for _, tt := range []struct {
		name string
		pod  *int64
		all  []v1.Container
		want *int64
	}{
		{"the pod's", &one, []v1.Container{{}, {}}, &one},
		{"all the same", nil, []v1.Container{as(&one), as(&one)}, &one},
		{"different", nil, []v1.Container{as(&one), as(&two)}, nil},
		{"one unknown", nil, []v1.Container{as(&one), {}}, nil},
		{"the container's goes before the pod's", &one, []v1.Container{as(&two)}, &two},
	} {
		p := &v1.Pod{Spec: v1.PodSpec{Containers: tt.all, SecurityContext: &v1.PodSecurityContext{RunAsUser: tt.pod}}}
		if diff := cmp.Diff(tt.want, tokenUser(p)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", tt.name, diff)
		}
	}
}

func TestTreePathsStayInside(t *testing.T) {
	for _, p := range []string{"", "/a", "../a", "a/../../b", "a//b", "..data"} {
		if _, err := writeTree(t.TempDir(), tree{p: {}}, time.Now(), nil); err == nil {
			t.Errorf("%q was written", p)
		}
	}
}

// TestTreeMendsWhatACrashLeft cuts the writing short at each of its steps.
func TestTreeMendsWhatACrashLeft(t *testing.T) {
	for name, leave := range map[string]func(string) error{
		"an unfinished version":  func(dir string) error { return os.MkdirAll(filepath.Join(dir, "..2020_x/sub"), 0o755) },
		"a link not yet swapped": func(dir string) error { return os.Symlink("..2020_x", filepath.Join(dir, nextLink)) },
		"a link to nothing": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, dataLink)), os.Symlink("..gone", filepath.Join(dir, dataLink)))
		},
		"a name that is no more": func(dir string) error { return os.Symlink("..data/old", filepath.Join(dir, "old")) },
		"a name not yet there":   func(dir string) error { return os.Remove(filepath.Join(dir, "b")) },
	} {
		dir := t.TempDir()
		if _, err := writeTree(dir, tree{"a": {Data: []byte("0"), Mode: 0o644}, "b": {Mode: 0o644}}, time.Now(), nil); err != nil {
			t.Fatal(err)
		}
		if err := leave(dir); err != nil {
			t.Fatal(err)
		}
		want := tree{"a": {Data: []byte("1"), Mode: 0o600}, "b": {Data: []byte("2"), Mode: 0o644}}
		if _, err := writeTree(dir, want, time.Now(), nil); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff([]string{"a -rw------- 1", "b -rw-r--r-- 2"}, show(t, dir)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 4 {
			t.Errorf("%s: want two names, ..data and its directory, got %v, %v", name, entries, err)
		}
	}
}

func TestMemorySize(t *testing.T) {
	node := v1.ResourceList{v1.ResourceMemory: resource.MustParse("1Gi")}
	limit := resource.MustParse("16Mi")
	bounded := podWith()
	bounded.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceMemory: resource.MustParse("64Mi")}
	for _, tt := range []struct {
		pod  *v1.Pod
		src  v1.EmptyDirVolumeSource
		want int64
	}{
		{podWith(), v1.EmptyDirVolumeSource{}, 1 << 30},
		{bounded, v1.EmptyDirVolumeSource{}, 64 << 20},
		{bounded, v1.EmptyDirVolumeSource{SizeLimit: &limit}, 16 << 20},
	} {
		if got := memorySize(tt.pod, &tt.src, node); got != tt.want {
			t.Errorf("want %d, got %d", tt.want, got)
		}
	}
}

// TestKernelVolumes mounts what needs a kernel, and takes it away again.
func TestKernelVolumes(t *testing.T) {
	needRoot(t)
	s := &server{now: time.Unix(1e9, 0), life: time.Hour, secrets: map[string]map[string][]byte{"s": {"k": []byte("v")}}, maps: map[string]map[string]string{}}
	v := newVolumes(t, s)
	t.Cleanup(func() {
		if err := v.Teardown(context.Background(), "u"); err != nil {
			t.Error(err)
		}
	})
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "keep"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	limit := resource.MustParse("1Mi")
	group := int64(2345)
	p := podWith(
		vol("mem", v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory, SizeLimit: &limit}}),
		vol("disk", v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}),
		vol("secret", v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "s"}}),
		vol("host", v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: host}}),
		vol("all", v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
			{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token"}},
			{DownwardAPI: &v1.DownwardAPIProjection{Items: []v1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}},
		}}}),
	)
	p.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: &group}
	got, err := v.Setup(t.Context(), p, Inputs{})
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(got["mem"].HostPath, &st); err != nil || st.Blocks*uint64(st.Bsize) != 1<<20 {
		t.Errorf("want 1 MiB, got %d, %v", st.Blocks*uint64(st.Bsize), err)
	}
	for _, name := range []string{"mem", "disk"} {
		info, err := os.Stat(got[name].HostPath)
		if err != nil || info.Mode() != fs.ModeDir|fs.ModeSetgid|0o777 {
			t.Errorf("%s: want mode 2777, got %v, %v", name, info.Mode(), err)
		}
	}
	if diff := cmp.Diff([]string{`labels -rw-r--r-- a="1"`, "token -rw-r----- t"}, show(t, got["all"].HostPath)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	subPaths(t, v, p, got, host)
	if err := v.Teardown(t.Context(), "u"); err != nil {
		t.Fatal(err)
	}
	if uids, err := v.PodUIDs(); err != nil || len(uids) != 0 {
		t.Errorf("want no pod left, got %v, %v", uids, err)
	}
	if _, err := os.Stat(filepath.Join(host, "keep")); err != nil {
		t.Errorf("what was behind a mount is gone: %v", err)
	}
}

func subPaths(t *testing.T, v *Volumes, p *v1.Pod, mounts map[string]Mount, host string) {
	t.Helper()
	disk := mounts["disk"].HostPath
	for link, to := range map[string]string{"out": host, "up": "../../..", "in": "sub"} {
		if err := os.Symlink(to, filepath.Join(disk, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		vol, sub string
		ok       bool
	}{
		{"disk", "sub/dir", true},
		{"disk", "in/dir", true},
		{"disk", "out", false},
		{"disk", "out/new", false},
		{"disk", "up", false},
		{"disk", "../disk", false},
		{"disk", "/etc", false},
		{"secret", "k", true},
		{"host", "keep", true},
	} {
		path, err := v.SubPath(p, mounts[tt.vol], tt.sub)
		if (err == nil) != tt.ok {
			t.Errorf("%s/%s: want ok %v, got %v", tt.vol, tt.sub, tt.ok, err)
			continue
		}
		if !tt.ok {
			if !strings.Contains(err.Error(), "subPath") {
				t.Errorf("want an error that names subPath, got %v", err)
			}
			continue
		}
		want, err := os.Stat(filepath.Join(mounts[tt.vol].HostPath, tt.sub))
		if err != nil {
			t.Fatal(err)
		}
		if have, err := os.Stat(path); err != nil || !os.SameFile(want, have) {
			t.Errorf("%s/%s: %s shows another file, %v", tt.vol, tt.sub, path, err)
		}
	}
	if entries, err := os.ReadDir(host); err != nil || !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == "keep" }) || len(entries) != 1 {
		t.Errorf("something was made outside of the volume: %v, %v", entries, err)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if strings.Contains(os.Getenv("ORLOP_REQUIRE"), "kernel") {
		t.Fatal("this test needs root")
	}
	t.Skip("this test needs root")
}

func TestKnowsNoswap(t *testing.T) {
	for release, want := range map[string]bool{"6.1.0-50-cloud-amd64": false, "6.3.9": false, "6.4": true, "6.18.44-fc": true, "7.0-rc1": true, "5.15.0": false, "x": false} {
		if got := knowsNoswap(release); got != want {
			t.Errorf("%s: %v, want %v", release, got, want)
		}
	}
}
