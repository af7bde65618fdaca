package socklb

//go:generate go tool bpf2go -tags linux -target bpfel -type endpoint -type frontend_key -type frontend -type slot -type member -type block -type source -type kind -type member_state -type backend_flag -type frontend_flag -type node_flag -type traffic -type apart_which -type reason object socklb.bpf.c -- -O2 -g -mcpu=v3 -Wall -Werror -I/usr/include/x86_64-linux-gnu
//go:generate go tool bpf2go -tags linux -target bpfel -output-suffix _test -type call objectTest socklb_test.bpf.c -- -O2 -g -mcpu=v3 -Wall -Werror -I/usr/include/x86_64-linux-gnu
//go:generate go tool bpf2go -tags linux -target bpfel -type lost lost lost.bpf.c -- -O2 -g -mcpu=v3 -Wall -Werror -I/usr/include/x86_64-linux-gnu
