package packetlb

//go:generate go tool bpf2go -tags linux -target bpfel -type tuple -type flow -type endpoint -type range -type link -type visitor -type visit -type fragment -type ports -type peer -type pair -type nets -type pairing -type tunnel -type end -type part -type flow_flag -type reason object packetlb.bpf.c -- -O2 -g -mcpu=v3 -Wall -Werror -I/usr/include/x86_64-linux-gnu
//go:generate go tool bpf2go -tags linux -target bpfel -output-suffix _test objectTest packetlb_test.bpf.c -- -O2 -g -mcpu=v3 -Wall -Werror -I/usr/include/x86_64-linux-gnu
