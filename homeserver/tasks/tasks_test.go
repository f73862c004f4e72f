package tasks_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"holdfast/homeserver/mx"
	"holdfast/homeserver/tasks"
	"holdfast/store"
)

type bench struct {
	t    *testing.T
	path string
	db   *store.DB
	now  time.Time
	s    *tasks.Service
}

func open(t *testing.T) *bench {
	b := &bench{t: t, path: filepath.Join(t.TempDir(), "holdfast.db"), now: time.Now()}
	b.open()
	t.Cleanup(b.close)
	return b
}

func (b *bench) open() {
	var err error
	if b.db, err = store.Open(context.Background(), b.path, store.Options{Readers: 1}); err != nil {
		b.t.Fatal(err)
	}
	b.s = tasks.New(tasks.Options{DB: b.db, Now: func() time.Time { return b.now }})
}

func (b *bench) close() {
	b.s.Close()
	if err := b.db.Close(); err != nil {
		b.t.Error(err)
	}
}

func (b *bench) schedule(action, resource string, params any) string {
	b.t.Helper()
	id, err := b.s.Schedule(context.Background(), action, resource, params, "")
	if err != nil {
		b.t.Fatal(err)
	}
	return id
}

func (b *bench) wait(id string) tasks.Task {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	task, err := b.s.Wait(ctx, id)
	if err != nil {
		b.t.Fatal(err)
	}
	return task
}

// A task that is stopped at any write goes on from there and does each part once.
func TestGoesOnFromItsCursor(t *testing.T) {
	b := open(t)
	const parts = 20
	var mu sync.Mutex
	var done []int
	count := func(stopAfter int, reached chan<- struct{}) tasks.Func {
		return func(ctx context.Context, r *tasks.Run) error {
			var p struct{ Parts int }
			var at int
			if err := errors.Join(r.Read(&p), r.Resume(&at)); err != nil {
				return err
			}
			for n := 0; at < p.Parts; n++ {
				if n == stopAfter {
					close(reached)
					<-ctx.Done()
					return ctx.Err()
				}
				part := at
				err := r.Write(ctx, func(tx *store.Tx) error {
					tx.AfterCommit(func() { mu.Lock(); done = append(done, part); mu.Unlock() })
					return r.Save(tx, part+1, map[string]int{"done": part + 1})
				})
				if err != nil {
					return err
				}
				at++
			}
			return nil
		}
	}
	reached := make(chan struct{})
	b.s.Handle("count", count(3, reached))
	b.s.Start(context.Background())
	id := b.schedule("count", "x", map[string]int{"Parts": parts})
	for range 3 {
		<-reached
		b.close()
		b.open()
		reached = make(chan struct{})
		b.s.Handle("count", count(3, reached))
		b.s.Start(context.Background())
	}
	<-reached
	b.close()
	b.open()
	b.s.Handle("count", count(-1, nil))
	b.s.Start(context.Background())
	task := b.wait(id)
	if task.Status != tasks.Complete || string(task.Result) != fmt.Sprintf(`{"done":%d}`, parts) {
		t.Errorf("it is %s with %s", task.Status, task.Result)
	}
	want := make([]int, parts)
	for i := range want {
		want[i] = i
	}
	if !slices.Equal(done, want) {
		t.Errorf("done were %v", done)
	}
}

func TestHowTasksEnd(t *testing.T) {
	b := open(t)
	tries := 0
	b.s.Handle("fails", func(context.Context, *tasks.Run) error { return mx.Errorf(mx.Forbidden, "It may not be.") })
	b.s.Handle("gone", func(context.Context, *tasks.Run) error { return fmt.Errorf("looked: %w", tasks.ErrGone) })
	b.s.Handle("passes", func(context.Context, *tasks.Run) error {
		if tries++; tries < 2 {
			return errors.New("the disk is full")
		}
		return nil
	})
	b.s.Start(context.Background())
	if task := b.wait(b.schedule("fails", "", nil)); task.Status != tasks.Failed || task.Error != "It may not be." {
		t.Errorf("it is %s: %q", task.Status, task.Error)
	}
	if task := b.wait(b.schedule("gone", "", nil)); task.Status != tasks.Cancelled {
		t.Errorf("it is %s", task.Status)
	}
	if task := b.wait(b.schedule("passes", "", nil)); task.Status != tasks.Complete || tries != 2 {
		t.Errorf("it is %s after %d tries", task.Status, tries)
	}
	if _, err := b.s.Schedule(context.Background(), "unknown", "", nil, ""); err == nil {
		t.Error("what nobody does was taken")
	}
}

// Tasks of one resource come in order, and no second one where that was asked for.
func TestOneAfterTheOther(t *testing.T) {
	b := open(t)
	var order []string
	hold := make(chan struct{})
	b.s.Handle("note", func(ctx context.Context, r *tasks.Run) error {
		var name string
		if err := r.Read(&name); err != nil {
			return err
		}
		if name == "first" {
			<-hold
		}
		order = append(order, name) // of one resource: never at the same time
		return nil
	})
	b.s.Start(context.Background())
	var ids []string
	for _, name := range []string{"first", "second", "third"} {
		ids = append(ids, b.schedule("note", "room", name))
	}
	_, err := b.s.Schedule(context.Background(), "note", "room", "fourth", "It is being done.")
	var refusal *mx.Error
	if !errors.As(err, &refusal) || refusal.Msg != "It is being done." {
		t.Errorf("a further one: %v", err)
	}
	close(hold)
	for _, id := range ids {
		b.wait(id)
	}
	if !slices.Equal(order, []string{"first", "second", "third"}) {
		t.Errorf("they came as %v", order)
	}
}

// Too many are refused, and old ones forgotten.
func TestBounds(t *testing.T) {
	b := open(t)
	b.s.Handle("waits", func(context.Context, *tasks.Run) error { return nil })
	var last error
	n := 0
	for ; n < 2000 && last == nil; n++ {
		_, last = b.s.Schedule(context.Background(), "waits", "", nil, "")
	}
	var refusal *mx.Error
	if !errors.As(last, &refusal) || refusal.Code != mx.LimitExceeded || n != 1001 {
		t.Fatalf("number %d: %v", n, last)
	}
	b.s.Start(context.Background())
	list := func() (out []tasks.Task) {
		err := b.db.Read(context.Background(), func(q store.Querier) (err error) {
			out, err = b.s.List(q, tasks.Filter{})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, task := range list() {
		b.wait(task.ID)
	}
	if n := len(list()); n != 1000 {
		t.Errorf("%d are remembered", n)
	}
	b.close()
	b.now = b.now.Add(8 * 24 * time.Hour)
	b.open()
	b.s.Handle("waits", func(context.Context, *tasks.Run) error { return nil })
	b.s.Start(context.Background())
	b.wait(b.schedule("waits", "", nil))
	if n := len(list()); n != 1 {
		t.Errorf("%d are remembered a week later", n)
	}
}
