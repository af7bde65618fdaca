// Package simulation runs the real controllers and the real scheduler over an API server in memory, in virtual time.
//
// A seed chooses everything that nobody promises: which call is answered next, refused, or carried out and its answer lost;
// when each cache is shown what has happened, is shown it twice, misses it, or is listed anew; when each handler is told, and
// each sync begins; what kubelets and users do; for how long the API is away; and before which effect a program is killed,
// with all that it remembered. One thing happens at a time, so a seed tells the same story each time. The invariants are
// checked after every effect, and when the faults stop, everything must become what it was declared to be.
package simulation
