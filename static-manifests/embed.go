// Package staticmanifests holds the objects that a cluster is made of beyond
// its static pods, as plain YAML that also works with `kubectl apply -f`.
//
// Images carry the tag dev and the registry localhost; whoever applies the
// files from a program sets both to its own.
package staticmanifests

import "embed"

// Files are the manifests by folder: bootstrap (rights of joining nodes),
// install (the node agent whole, and its parts alone), addons (cluster DNS), demo.
//
//go:embed bootstrap install/*.yaml addons demo
var Files embed.FS
