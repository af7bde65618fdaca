package packetlb

import (
	"fmt"
	"strconv"
	"strings"
)

const (
	leastPort     = 1024
	firstNodePort = 30000 // of the range that node ports are given from, unless the API server was told otherwise
	enoughPorts   = 2048
)

// PortsBeside chooses the ports of masqueraded flows beside those that the node's own sockets choose from, as
// /proc/sys/net/ipv4/ip_local_port_range has them, and beside node ports.
func PortsBeside(local string) (first, last uint16, err error) {
	words := strings.Fields(local)
	if len(words) != 2 {
		return 0, 0, fmt.Errorf("read the range of local ports: %q", local)
	}
	low, err := strconv.ParseUint(words[0], 10, 16)
	if err != nil {
		return 0, 0, fmt.Errorf("read the range of local ports: %w", err)
	}
	high, err := strconv.ParseUint(words[1], 10, 16)
	if err != nil {
		return 0, 0, fmt.Errorf("read the range of local ports: %w", err)
	}
	switch below := min(low, firstNodePort); {
	case below >= leastPort+enoughPorts:
		return leastPort, uint16(below - 1), nil
	case 65535-high >= enoughPorts:
		return uint16(high + 1), 65535, nil
	}
	return 0, 0, fmt.Errorf("net.ipv4.ip_local_port_range is %s: it leaves no %d ports below %d or at the end to masquerade with", strings.Join(words, " to "), enoughPorts, firstNodePort)
}
