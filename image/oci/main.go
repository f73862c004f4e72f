// Command oci makes the container image of a built bin/holdfast: an OCI image
// layout in a tar file, which every engine loads.
//
// Invariants: no engine is needed to make it; it has one layer, in which the
// program is the only one; it runs as a user without rights; the same program
// gives the same file.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// uid is the user of the program in a container, as images without a system use it.
const uid = 65532

func main() {
	binary := flag.String("binary", "bin/holdfast", "the program")
	arch := flag.String("arch", "amd64", "amd64 or arm64")
	version := flag.String("version", "", "the program's version")
	epoch := flag.Int64("epoch", 0, "the time of all files, in seconds since 1970")
	out := flag.String("out", "bin", "the folder of the image")
	flag.Parse()
	path := filepath.Join(*out, fmt.Sprintf("holdfast-%s-%s.oci.tar", *version, *arch))
	err := os.MkdirAll(*out, 0o755)
	if err == nil {
		err = write(path, *binary, *arch, *version, time.Unix(*epoch, 0).UTC())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "oci:", err)
		os.Exit(1)
	}
	fmt.Println(path)
}

// descriptor names a blob. Source: OCI image specification, descriptor.md.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// layout is an image layout that is being written.
type layout struct {
	tar *tar.Writer
	at  time.Time
}

func (l *layout) file(name string, content []byte) error {
	err := l.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), ModTime: l.at, Format: tar.FormatPAX})
	if err == nil {
		_, err = l.tar.Write(content)
	}
	return err
}

func (l *layout) blob(mediaType string, content []byte) (descriptor, error) {
	sum := sha256.Sum256(content)
	name := hex.EncodeToString(sum[:])
	return descriptor{MediaType: mediaType, Digest: "sha256:" + name, Size: len(content)}, l.file("blobs/sha256/"+name, content)
}

func (l *layout) json(mediaType string, v any) (descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return descriptor{}, err
	}
	return l.blob(mediaType, b)
}

type object = map[string]any

func write(path, binary, arch, version string, at time.Time) error {
	program, err := os.ReadFile(binary)
	if err != nil {
		return fmt.Errorf("%w; build it first: make build", err)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	l := &layout{tar.NewWriter(f), at}
	plain, err := layer(program, at)
	if err != nil {
		return err
	}
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := z.Write(plain); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	if err := l.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	content, err := l.blob("application/vnd.oci.image.layer.v1.tar+gzip", packed.Bytes())
	if err != nil {
		return err
	}
	diff := sha256.Sum256(plain)
	labels := map[string]string{
		"org.opencontainers.image.title":    "Holdfast",
		"org.opencontainers.image.version":  version,
		"org.opencontainers.image.licenses": "EUPL-1.2",
		"org.opencontainers.image.created":  at.Format(time.RFC3339),
	}
	config, err := l.json("application/vnd.oci.image.config.v1+json", object{
		"created": at.Format(time.RFC3339), "architecture": arch, "os": "linux",
		"config": object{
			"User":       fmt.Sprintf("%d:%d", uid, uid),
			"Entrypoint": []string{"/holdfast"},
			"Cmd":        []string{"serve"},
			// Without rights no port below 1024. Of media only one port matters.
			"Env":          []string{"HOLDFAST_LISTEN_HTTPS=:8443", "HOLDFAST_DATA=/var/lib/holdfast"},
			"ExposedPorts": object{"8443/tcp": object{}, "7881/tcp": object{}, "7882/udp": object{}, "3478/udp": object{}},
			"Volumes":      object{"/var/lib/holdfast": object{}},
			"StopSignal":   "SIGTERM",
			"Labels":       labels,
		},
		"rootfs":  object{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(diff[:])}},
		"history": []object{{"created": at.Format(time.RFC3339), "created_by": "make oci"}},
	})
	if err != nil {
		return err
	}
	manifest, err := l.json("application/vnd.oci.image.manifest.v1+json", object{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": config, "layers": []descriptor{content}, "annotations": labels,
	})
	if err != nil {
		return err
	}
	manifest.Annotations = map[string]string{"org.opencontainers.image.ref.name": version}
	index, err := json.Marshal(object{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []descriptor{manifest}})
	if err != nil {
		return err
	}
	if err := l.file("index.json", index); err != nil {
		return err
	}
	if err := l.tar.Close(); err != nil {
		return err
	}
	return f.Close()
}

// layer is the image's only one.
func layer(program []byte, at time.Time) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h tar.Header, content []byte) error {
		h.ModTime, h.Size, h.Format = at, int64(len(content)), tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		_, err := io.Copy(w, bytes.NewReader(content))
		return err
	}
	users := fmt.Sprintf("root:x:0:0:root:/:/none\nholdfast:x:%d:%d:Holdfast:/var/lib/holdfast:/none\n", uid, uid)
	groups := fmt.Sprintf("root:x:0:\nholdfast:x:%d:\n", uid)
	for _, e := range []struct {
		tar.Header
		content []byte
	}{
		{tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755}, nil},
		{tar.Header{Name: "etc/group", Typeflag: tar.TypeReg, Mode: 0o644}, []byte(groups)},
		{tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644}, []byte(users)},
		{tar.Header{Name: "holdfast", Typeflag: tar.TypeReg, Mode: 0o755}, program},
		{tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}, nil},
		{tar.Header{Name: "var/", Typeflag: tar.TypeDir, Mode: 0o755}, nil},
		{tar.Header{Name: "var/lib/", Typeflag: tar.TypeDir, Mode: 0o755}, nil},
		{tar.Header{Name: "var/lib/holdfast/", Typeflag: tar.TypeDir, Mode: 0o700, Uid: uid, Gid: uid}, nil},
	} {
		if err := add(e.Header, e.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
