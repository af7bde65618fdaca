package deployment

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func rs(name string, replicas, available int, age time.Duration) RS {
	return RS{Name: name, Replicas: replicas, Available: available, Created: time.Unix(1000, 0).Add(-age), Desired: 4, MaxReplicas: 5}
}

func TestDecide(t *testing.T) {
	base := View{Replicas: 4, MaxSurge: 1, MaxUnavailable: 1, StatusReplicas: 4}
	newer := func(replicas, available int) *RS { r := rs("new", replicas, available, 0); return &r }
	for _, tc := range []struct {
		name   string
		mutate func(*View)
		want   Plan
	}{
		{"first", func(*View) {}, Plan{CreateNew: true, CreateReplicas: 4}},
		{"rollout begins with the surge", func(v *View) { v.Old = []RS{rs("a", 4, 4, 1)} }, Plan{CreateNew: true, CreateReplicas: 1}},
		{"old shrinks while the new is not available", func(v *View) { v.New, v.Old = newer(1, 0), []RS{rs("a", 4, 4, 1)} }, Plan{Scale: map[string]int{"a": 3}}},
		{"nothing below the minimum", func(v *View) { v.New, v.Old = newer(2, 0), []RS{rs("a", 3, 3, 1)} }, Plan{Scale: map[string]int{}}},
		{"unhealthy old pods go first", func(v *View) {
			v.New, v.Old = newer(1, 0), []RS{rs("good", 3, 3, 2), rs("sick", 1, 0, 1)}
		}, Plan{Scale: map[string]int{"sick": 0}}},
		{"what was just scaled up again protects nobody yet", func(v *View) {
			v.New, v.Old = newer(2, 0), []RS{rs("a", 3, 3, 1)}
			v.New.Unobserved = true
		}, Plan{Scale: map[string]int{}}},
		{"nor is it sick", func(v *View) {
			v.New, v.Old = newer(1, 0), []RS{rs("a", 2, 0, 2), rs("b", 2, 2, 1)}
			v.Old[0].Unobserved = true
		}, Plan{Scale: map[string]int{}}},
		{"paused does not roll", func(v *View) { v.Paused, v.Old = true, []RS{rs("a", 4, 4, 1)} }, Plan{Scale: map[string]int{"a": 4}}},
		{"recreate empties the old first", func(v *View) { v.Recreate, v.Old = true, []RS{rs("a", 4, 4, 1)} }, Plan{Scale: map[string]int{"a": 0}}},
		{"recreate waits for old pods", func(v *View) { v.Recreate, v.OldPodsRunning = true, true }, Plan{}},
		{"scaled in the middle keeps proportions", func(v *View) {
			v.Replicas, v.New, v.Old = 8, newer(2, 2), []RS{rs("a", 3, 3, 1)}
		}, Plan{Scale: map[string]int{"new": 4, "a": 5}}},
		{"scaled down in the middle takes no available pod where another will do", func(v *View) {
			v.Replicas, v.MaxUnavailable, v.New, v.Old = 3, 0, newer(5, 4), []RS{rs("a", 3, 0, 1)}
			v.New.MaxReplicas, v.Old[0].MaxReplicas, v.New.Desired, v.Old[0].Desired = 8, 8, 6, 6
		}, Plan{Scale: map[string]int{"new": 3, "a": 1}}},
		{"none grows while all shrink", func(v *View) {
			v.Replicas, v.New, v.Old = 5, newer(6, 5), []RS{rs("a", 1, 0, 1)}
			v.New.MaxReplicas, v.New.Desired, v.Old[0].MaxReplicas, v.Old[0].Desired = 5, 4, 4, 3
		}, Plan{Scale: map[string]int{"new": 5, "a": 1}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := base
			tc.mutate(&v)
			if diff := cmp.Diff(tc.want, Decide(v)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Whatever becomes available when, a rollout ends with all replicas in the new
// ReplicaSet, and never has fewer available, or more in all, than it may; also when only a
// part of each plan is carried out.
func TestRolloutConverges(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		v := View{Replicas: r.IntN(9), MaxSurge: r.IntN(4), MaxUnavailable: r.IntN(4)}
		if v.MaxSurge == 0 && v.MaxUnavailable == 0 {
			v.MaxUnavailable = 1
		}
		v.MaxUnavailable = min(v.MaxUnavailable, max(v.Replicas, 1))
		v.Old = []RS{{Name: "a", Replicas: v.Replicas, Available: v.Replicas, Desired: v.Replicas}}
		for step := 0; ; step++ {
			if v.New != nil && v.New.Replicas == v.Replicas && v.New.Available == v.Replicas && v.Old[0].Replicas == 0 {
				break
			}
			if step > 200 {
				t.Fatalf("seed %d: stuck at %+v %+v", seed, v, v.New)
			}
			p := Decide(v)
			if p.CreateNew {
				v.New = &RS{Name: "new", Replicas: p.CreateReplicas, Desired: v.Replicas}
			}
			if n, ok := p.Scale["a"]; ok && r.IntN(3) > 0 {
				v.Old[0].Replicas, v.Old[0].Available = n, min(n, v.Old[0].Available)
			}
			if n, ok := p.Scale["new"]; ok && r.IntN(3) > 0 {
				v.New.Replicas = n
			}
			if total := v.Old[0].Replicas + v.New.Replicas; total > v.Replicas+v.MaxSurge {
				t.Fatalf("seed %d: %d pods of %d+%d", seed, total, v.Replicas, v.MaxSurge)
			}
			if available := v.Old[0].Available + v.New.Available; available < v.Replicas-v.MaxUnavailable {
				t.Fatalf("seed %d: %d available of %d-%d", seed, available, v.Replicas, v.MaxUnavailable)
			}
			if v.New.Available < v.New.Replicas && r.IntN(2) == 0 {
				v.New.Available++
			}
		}
	}
}
