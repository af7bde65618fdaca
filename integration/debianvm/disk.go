package debianvm

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"
)

const (
	release = "bookworm"
	mirror  = "http://deb.debian.org/debian"
	// diskSize leaves more than the free room that kubelets ask for; the file is sparse.
	diskSize = "8G"
)

// packages are what the system has besides Debian's required ones: what a small server has, and what the
// installation page asks for.
var packages = [...]string{
	"linux-image-cloud-amd64", "systemd", "systemd-sysv", "dbus", "udev", "kmod", "mount", "util-linux", "procps", "iproute2", "netbase",
	"ca-certificates", "openssh-server", "containerd", "runc",
}

// system gives the folder of a Debian as debootstrap makes it, and makes it if there is none of these packages.
func system(ctx context.Context, cache string) (string, error) {
	sum := sha256.Sum256([]byte(release + strings.Join(packages[:], ",")))
	dir := filepath.Join(cache, release+"-"+hex.EncodeToString(sum[:4]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("make folder of the system: %w", err)
	}
	unfinished := dir + ".unfinished"
	if err := os.RemoveAll(unfinished); err != nil {
		return "", fmt.Errorf("remove what was not finished: %w", err)
	}
	err := quietly(ctx, "debootstrap", "--variant=minbase", "--include="+strings.Join(packages[:], ","), release, unfinished, mirror)
	if err != nil {
		return "", err
	}
	if err := os.RemoveAll(filepath.Join(unfinished, "var/cache/apt/archives")); err != nil {
		return "", fmt.Errorf("remove downloaded packages: %w", err)
	}
	return dir, os.Rename(unfinished, dir)
}

// disk is what a machine boots from.
type disk struct {
	image, kernel, initrd string
	key                   ssh.Signer // that root lets in
	host                  ssh.PublicKey
}

// makeDisk writes an ext4 image of the system with what is set up in it.
func makeDisk(ctx context.Context, cfg Config) (d disk, err error) {
	base, err := system(ctx, cfg.Cache)
	if err != nil {
		return disk{}, err
	}
	root := filepath.Join(cfg.Dir, "root")
	defer func() { err = errors.Join(err, os.RemoveAll(root)) }()
	if err := quietly(ctx, "cp", "-a", base, root); err != nil {
		return disk{}, err
	}
	for to, from := range cfg.Files {
		to = filepath.Join(root, to)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return disk{}, fmt.Errorf("make folder: %w", err)
		}
		if err := quietly(ctx, "cp", "-aL", from, to); err != nil {
			return disk{}, err
		}
	}
	if d.key, err = letIn(root); err != nil {
		return disk{}, err
	}
	if d.host, err = hostKey(root); err != nil {
		return disk{}, err
	}
	for path, text := range setUp(cfg) {
		if err := write(filepath.Join(root, path), text, 0o644); err != nil {
			return disk{}, err
		}
	}
	if err := enable(root, "systemd-networkd.service"); err != nil {
		return disk{}, err
	}
	for _, f := range []struct {
		pattern string
		to      *string
	}{{"boot/vmlinuz-*", &d.kernel}, {"boot/initrd.img-*", &d.initrd}} {
		found, err := filepath.Glob(filepath.Join(base, f.pattern))
		if err != nil || len(found) != 1 {
			return disk{}, fmt.Errorf("the system has %d of %s, want one (%v)", len(found), f.pattern, err)
		}
		*f.to = found[0]
	}
	d.image = filepath.Join(cfg.Dir, "disk.img")
	return d, quietly(ctx, "mkfs.ext4", "-q", "-F", "-L", "root", "-d", root, d.image, diskSize)
}

// setUp lists the files of /etc that an installer would have asked for.
func setUp(cfg Config) map[string]string {
	out := map[string]string{
		"etc/hostname":                        cfg.Name + "\n",
		"etc/hosts":                           "127.0.0.1 localhost\n127.0.1.1 " + cfg.Name + "\n::1 localhost ip6-localhost ip6-loopback\n",
		"etc/fstab":                           "LABEL=root / ext4 errors=remount-ro 0 1\n",
		"etc/resolv.conf":                     "nameserver 10.0.2.3\n",
		"etc/systemd/network/10-wire.network": "[Match]\nName=en* eth*\n[Network]\nDHCP=ipv4\n",
	}
	for path, text := range cfg.Text {
		out[strings.TrimPrefix(path, "/")] = text
	}
	return out
}

// letIn makes a key that root accepts.
func letIn(root string) (ssh.Signer, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return nil, fmt.Errorf("use the key: %w", err)
	}
	authorized, err := ssh.NewPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("use the key: %w", err)
	}
	return signer, write(filepath.Join(root, "root/.ssh/authorized_keys"), string(ssh.MarshalAuthorizedKey(authorized)), 0o600)
}

func hostKey(root string) (ssh.PublicKey, error) {
	text, err := os.ReadFile(filepath.Join(root, "etc/ssh/ssh_host_ed25519_key.pub"))
	if err != nil {
		return nil, fmt.Errorf("read the system's own key: %w", err)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		return nil, fmt.Errorf("read the system's own key: %w", err)
	}
	return key, nil
}

func write(path, text string, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // it may be a link
		return fmt.Errorf("replace file: %w", err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		return fmt.Errorf("write file: %w", err)
	}
	return nil
}

func enable(root, unit string) error {
	link := filepath.Join(root, "etc/systemd/system/multi-user.target.wants", unit)
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return fmt.Errorf("enable %s: %w", unit, err)
	}
	if err := os.Symlink("/lib/systemd/system/"+unit, link); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("enable %s: %w", unit, err)
	}
	return nil
}

func quietly(ctx context.Context, program string, args ...string) error {
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err != nil {
		text := strings.TrimSpace(string(out))
		return fmt.Errorf("%s: %w\n%s", program, err, text[max(0, len(text)-2000):])
	}
	return nil
}
