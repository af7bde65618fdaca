package probe

import "container/heap"

// agenda has the workers that wait for their time, the next one first. A worker is in it at most once: not while it is
// asked, once it has ended, or while it waits for the startup probe. Thousands of probes then cost no more than those that
// are due.
type agenda []*worker

func (a agenda) Len() int           { return len(a) }
func (a agenda) Less(i, j int) bool { return a[i].due.Before(a[j].due) }
func (a agenda) Swap(i, j int) {
	a[i], a[j] = a[j], a[i]
	a[i].place, a[j].place = i+1, j+1
}

// Push is for container/heap.
func (a *agenda) Push(x any) {
	w := x.(*worker)
	*a = append(*a, w)
	w.place = len(*a)
}

// Pop is for container/heap.
func (a *agenda) Pop() any {
	last := len(*a) - 1
	w := (*a)[last]
	(*a)[last], w.place = nil, 0
	*a = (*a)[:last]
	return w
}

// note puts a worker where its time wants it.
func (a *agenda) note(w *worker) {
	switch {
	case w.asking || w.ended:
	case w.place > 0:
		heap.Fix(a, w.place-1)
	default:
		heap.Push(a, w)
	}
}

// strike takes a worker out.
func (a *agenda) strike(w *worker) {
	if w != nil && w.place > 0 {
		heap.Remove(a, w.place-1)
	}
}
