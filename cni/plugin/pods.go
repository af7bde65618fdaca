package plugin

import "net/netip"

// AddressesOf returns what a pod (namespace/name) holds of a network whose leases are in dir, as from the moment on that an ADD has chosen it; the runtime
// tells the API server later.
func AddressesOf(dir, network, pod string) ([]netip.Addr, error) {
	store, err := storeOf(&Config{StateDir: dir, Name: network})
	if err != nil {
		return nil, err
	}
	leases, err := store.List()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, l := range leases {
		if holdingOf(l).Pod == pod {
			out = append(out, l.Addrs...)
		}
	}
	return out, nil
}
