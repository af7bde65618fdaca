package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/orlop-io/orlop/proxy"
)

// packed is a Service or an EndpointSlice as informers keep it: what the model is made of, whose bytes the proxy shares, and what an Event about it says. A cluster
// has so many that little else of an agent counts.
type packed struct {
	text         string // key, version, uid, and what the model is made of: nothing, where it has nothing to do with it
	key          uint16 // their lengths
	version, uid uint8
	kind         byte
}

func newPacked(kind byte, key, version string, uid types.UID, content string) (*packed, error) {
	p := &packed{text: key + version + string(uid) + content, key: uint16(len(key)), version: uint8(len(version)), uid: uint8(len(uid)), kind: kind}
	if int(p.key) != len(key) || int(p.version) != len(version) || int(p.uid) != len(uid) {
		return nil, fmt.Errorf("pack %.100s: its metadata is too long", key)
	}
	return p, nil
}

func (p *packed) keyText() string { return p.text[:p.key] }

func (p *packed) content() string { return p.text[int(p.key)+int(p.version)+int(p.uid):] }

// said is what the model is made of; "" of what is gone, too.
func (p *packed) said() string {
	if p == nil {
		return ""
	}
	return p.content()
}

// meta is what Events speak of.
func (p *packed) meta() metav1.ObjectMeta {
	namespace, name, _ := strings.Cut(p.keyText(), "/")
	rest := p.text[p.key:]
	return metav1.ObjectMeta{Namespace: namespace, Name: name, ResourceVersion: rest[:p.version], UID: types.UID(rest[p.version:][:p.uid])}
}

// GetObjectMeta says what informers need to know. It implements metav1.ObjectMetaAccessor.
func (p *packed) GetObjectMeta() metav1.Object {
	m := p.meta()
	return &m
}

// Marshal returns what unmarshalPacked reads.
func (p *packed) Marshal() ([]byte, error) {
	b := binary.BigEndian.AppendUint16(make([]byte, 0, len(p.text)+4), p.key)
	return append(append(b, p.version, p.uid), p.text...), nil
}

func unmarshalPacked(kind byte, b []byte) (*packed, error) {
	if len(b) < 4 {
		return nil, errors.New("an object is cut off")
	}
	p := &packed{text: string(b[4:]), key: binary.BigEndian.Uint16(b), version: b[2], uid: b[3], kind: kind}
	if int(p.key)+int(p.version)+int(p.uid) > len(p.text) {
		return nil, errors.New("an object is cut off")
	}
	whole := p.content() == ""
	switch {
	case whole:
	case kind == kindService:
		_, whole = proxy.PackedService(p.content()).Unpack()
	default:
		_, whole = proxy.PackedSlice(p.content()).Unpack()
	}
	if !whole {
		return nil, fmt.Errorf("%s cannot be read", p.keyText())
	}
	return p, nil
}

// pack is what informers keep of an object: all of what it does not know, such as a tombstone and what is packed already.
func (w *watch) pack(obj any) (any, error) {
	switch o := obj.(type) {
	case *corev1.Service:
		s, ours := proxy.FromService(o)
		content := ""
		if ours {
			content = string(s.Pack())
		}
		return newPacked(kindService, o.Namespace+"/"+o.Name, o.ResourceVersion, o.UID, content)
	case *discoveryv1.EndpointSlice:
		s, ours := proxy.FromSlice(o, w.node)
		if s.Triggered.Before(w.began) {
			s.Triggered = time.Time{} // most, of a large cluster; how long they took is not this process's doing
		}
		content := ""
		if ours {
			content = string(s.Pack())
		}
		return newPacked(kindSlice, o.Namespace+"/"+o.Name, o.ResourceVersion, "", content)
	case *corev1.Node:
		o.ManagedFields, o.Status.Images = nil, nil
		return o, nil
	default:
		return obj, nil
	}
}
