// Package simulation runs the real controllers and the real scheduler over an API server in memory, in virtual time.
//
// A seed chooses everything that nobody promises: which call is answered next, refused, or carried out and its answer lost;
// when each watch shows what has happened, ends, or has to be listed anew; what kubelets and users do; and before which
// effect a program is killed, with all that it remembered. The invariants are checked after every effect, and when the
// faults stop, everything must become what it was declared to be.
package simulation
