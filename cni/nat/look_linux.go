package nat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// There returns those of ports that lead to the pods that they say.
//
// It asks for each by its key. A list of all, which the kernel gives while others change the map, can lack an element that was there the whole time, and
// no flag in it says so: the host port of a pod that ends beside others would stay.
func (t *Table) There(ports []HostPort) ([]HostPort, error) {
	if len(ports) == 0 {
		return nil, nil
	}
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open netfilter socket: %w", err)
	}
	defer conn.Close()
	var out []HostPort
	for _, p := range ports {
		there, err := t.leads(conn, p)
		if err != nil {
			return nil, fmt.Errorf("look up host port %d: %w", p.Port, err)
		}
		if there {
			out = append(out, p)
		}
	}
	return out, nil
}

func (t *Table) leads(conn *netlink.Conn, p HostPort) (bool, error) {
	f := familyOf(p.Pod.Addr())
	set, elem := f.element(&nftables.Table{Name: t.name, Family: f.table}, p)
	ask := netlink.NewAttributeEncoder()
	ask.String(unix.NFTA_SET_ELEM_LIST_TABLE, t.name)
	ask.String(unix.NFTA_SET_ELEM_LIST_SET, set.Name)
	ask.Nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(list *netlink.AttributeEncoder) error {
		list.Nested(unix.NFTA_LIST_ELEM, func(e *netlink.AttributeEncoder) error {
			e.Nested(unix.NFTA_SET_ELEM_KEY, func(key *netlink.AttributeEncoder) error {
				key.Bytes(unix.NFTA_DATA_VALUE, elem.Key)
				return nil
			})
			return nil
		})
		return nil
	})
	attrs, err := ask.Encode()
	if err != nil {
		return false, err
	}
	replies, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETSETELEM, Flags: netlink.Request},
		Data:   append([]byte{byte(f.table), unix.NFNETLINK_V0, 0, 0}, attrs...), // struct nfgenmsg
	})
	if errors.Is(err, unix.ENOENT) {
		return false, nil // nor, maybe, the map
	}
	if err != nil {
		return false, err
	}
	for _, r := range replies {
		got, err := elementIn(r.Data)
		if err != nil {
			return false, err
		}
		if string(got.Val) == string(elem.Val) && got.Timeout >= forever/2 {
			return true, nil
		}
	}
	return false, nil
}

// elementIn reads the value and the life of the one element in an answer.
func elementIn(answer []byte) (e nftables.SetElement, err error) {
	const header = 4 // struct nfgenmsg
	if len(answer) < header {
		return e, errors.New("the kernel's answer is too short")
	}
	in, err := netlink.NewAttributeDecoder(answer[header:])
	if err != nil {
		return e, err
	}
	element := func(in *netlink.AttributeDecoder) error {
		for in.Next() {
			switch in.Type() {
			case unix.NFTA_SET_ELEM_DATA:
				in.Nested(func(data *netlink.AttributeDecoder) error {
					for data.Next() {
						e.Val = data.Bytes()
					}
					return nil
				})
			case unix.NFTA_SET_ELEM_TIMEOUT:
				if ms := in.Bytes(); len(ms) == 8 {
					e.Timeout = time.Duration(binary.BigEndian.Uint64(ms)) * time.Millisecond
				}
			}
		}
		return nil
	}
	for in.Next() {
		if in.Type() == unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			in.Nested(func(list *netlink.AttributeDecoder) error {
				for list.Next() {
					list.Nested(element)
				}
				return nil
			})
		}
	}
	return e, in.Err()
}
