// Package etcd is etcd itself, as its own program runs it: the store of all cluster state.
package etcd

import "go.etcd.io/etcd/server/v3/etcdmain"

// Main runs etcd with args, the command line without the program's name. It does not return: etcd ends the process
// itself, on SIGTERM after it has given leadership away.
func Main(args []string) { etcdmain.Main(append([]string{"etcd"}, args...)) }
