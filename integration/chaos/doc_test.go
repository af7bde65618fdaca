// Package chaos breaks what a cluster rests on for as long as outages last, and wants all to be well again afterwards,
// by itself. It drives the built programs from outside; `make chaos` runs it, which takes longer than a test may.
package chaos
