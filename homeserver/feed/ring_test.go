package feed

import (
	"fmt"
	"math/rand"
	"testing"

	"holdfast/store"
)

// The ring gives exactly the touches of a range, or says that it does not have them.
func TestRing(t *testing.T) {
	var r ring
	r.init()
	r.raise(10)
	if r.each(9, 20, func(*store.Touch) { t.Fatal("called") }) {
		t.Fatal("knows what was before it")
	}
	rnd := rand.New(rand.NewSource(1))
	var all []store.Touch
	pos := int64(10)
	for len(all) < 5*ringSize {
		var batch []store.Touch
		n := 1 + rnd.Intn(400)
		if rnd.Intn(100) == 0 {
			n = ringSize + rnd.Intn(ringSize)
		}
		for range n {
			pos += int64(rnd.Intn(3))
			batch = append(batch, store.Touch{Kind: "k", Key: fmt.Sprint(len(all) + len(batch)), Pos: pos})
		}
		pos++
		r.add(batch)
		all = append(all, batch...)
		for range 3 {
			from := max(0, pos-int64(rnd.Intn(3*ringSize)))
			to := from + int64(rnd.Intn(500))
			var got []string
			held := r.each(from, to, func(x *store.Touch) { got = append(got, x.Key) })
			if !held {
				if from >= r.floor {
					t.Fatalf("(%d, %d] is not held, the floor is %d", from, to, r.floor)
				}
				continue
			}
			i := 0
			for _, x := range all {
				if x.Pos > from && x.Pos <= to {
					if i >= len(got) || got[i] != x.Key {
						t.Fatalf("(%d, %d]: touch %s is missing", from, to, x.Key)
					}
					i++
				}
			}
			if i != len(got) {
				t.Fatalf("(%d, %d]: %d touches too many", from, to, len(got)-i)
			}
		}
	}
	held := 0
	for _, x := range all {
		if x.Pos > r.floor {
			held++
		}
	}
	if held < ringSize-500 {
		t.Fatalf("only %d of %d touches can be asked for", held, len(all))
	}
	if len(r.buf) > 2*ringSize {
		t.Fatalf("%d touches are held", len(r.buf))
	}
}
