package apiserver

import (
	"runtime"
	"testing"
	"time"
)

func TestHeapGrowth(t *testing.T) {
	for _, tt := range []struct {
		name string
		live uint64
		rate float64
		want int
	}{
		{"calm", 96 << 20, busyRate - 1, collectCalm},
		{"calm and empty", 0, 0, collectCalm},
		{"busy", 96 << 20, busyRate, 200},
		{"busy and small", 4 << 20, busyRate, collectMost},
		{"busy and empty", 0, busyRate, collectMost},
		{"busy and large", 2 << 30, 100 * busyRate, collectBusy},
	} {
		if got := heapGrowth(tt.live, tt.rate); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

func TestCollectionsAreTold(t *testing.T) {
	told := make(chan struct{}, 1)
	tellCollections(t.Context(), told)
	for range 3 {
		runtime.GC()
		select {
		case <-told:
		case <-time.After(5 * time.Second):
			t.Fatal("a collection was not told")
		}
	}
}
