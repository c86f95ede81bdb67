// River as a peer of the benchmark. See ../README.md for the commands, which are the same for every peer.
//
// The settings are those of River's own benchmark (`river bench`, cmd/river/riverbench/river_bench.go): FetchCooldown
// 2 ms, FetchPollInterval 20 ms, MaxWorkers 2,000. Jobs are inserted with InsertManyFast, which uses COPY.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

type noop struct{}

func (noop) Kind() string { return "noop" }

type oneMs struct{}

func (oneMs) Kind() string { return "one_ms" }

type probe struct {
	Number int `json:"number"`
}

func (probe) Kind() string { return "probe" }

func main() {
	ctx := context.Background()
	switch command, rest := os.Args[1], os.Args[2:]; command {
	case "setup":
		setup(ctx)
	case "enqueue":
		enqueue(ctx, rest[0], number(rest[1]), number(rest[2]))
	case "submit":
		submit(ctx, number(rest[0]))
	case "work":
		work(ctx)
	case "calibrate":
		calibrate()
	case "bare":
		bare(number(rest[0]))
	default:
		panic("unknown command " + command)
	}
}

func setup(ctx context.Context) {
	migrator := must(rivermigrate.New(riverpgxv5.New(pool(ctx)), nil))
	must(migrator.Migrate(ctx, rivermigrate.DirectionUp, nil))
	say(map[string]any{"ready": true})
}

func enqueue(ctx context.Context, kind string, jobs, slice int) {
	client := inserter(ctx)
	var args river.JobArgs = noop{}
	if kind == "one_ms" {
		args = oneMs{}
	}
	began := time.Now()
	for left := jobs; left > 0; left -= slice {
		params := make([]river.InsertManyParams, min(left, slice))
		for i := range params {
			params[i].Args = args
		}
		must(client.InsertManyFast(ctx, params))
	}
	say(map[string]any{"jobs": jobs, "seconds": time.Since(began).Seconds()})
}

func submit(ctx context.Context, probes int) {
	client := inserter(ctx)
	at := make([]float64, probes)
	for i := range at {
		time.Sleep(30*time.Millisecond + time.Duration(rand.Intn(40_000))*time.Microsecond)
		at[i] = now()
		must(client.Insert(ctx, probe{Number: i}, nil))
	}
	say(map[string]any{"submitted": at})
}

func work(ctx context.Context) {
	var first sync.Once
	begin := func() { first.Do(func() { say(map[string]any{"first": now()}) }) }
	loops := number(os.Getenv("BENCH_LOOPS"))
	workers := river.NewWorkers()
	river.AddWorker(workers, river.WorkFunc(func(context.Context, *river.Job[noop]) error {
		begin()
		return nil
	}))
	river.AddWorker(workers, river.WorkFunc(func(context.Context, *river.Job[oneMs]) error {
		begin()
		burn(loops)
		return nil
	}))
	river.AddWorker(workers, river.WorkFunc(func(_ context.Context, job *river.Job[probe]) error {
		say(map[string]any{"probe": job.Args.Number, "at": now()})
		return nil
	}))
	connections := pool(ctx)
	check(connections.Ping(ctx))
	client := must(river.NewClient(riverpgxv5.New(connections), &river.Config{
		FetchCooldown:     2 * time.Millisecond,
		FetchPollInterval: 20 * time.Millisecond,
		Logger:            slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
		Queues:            map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 2_000}},
		Workers:           workers,
	}))
	waitForGo()
	check(client.Start(ctx))
	select {}
}

// calibrate counts how many turns of the loop take 1 ms: the quickest of many tries.
func calibrate() {
	const turns = 1_000_000
	best := time.Hour
	for range 200 {
		began := time.Now()
		burn(turns)
		best = min(best, time.Since(began))
	}
	say(map[string]any{"loops": int(turns * float64(time.Millisecond) / float64(best))})
}

// bare calls the 1 ms function without any queue, on as many goroutines as a worker has processors.
func bare(milliseconds int) {
	loops := number(os.Getenv("BENCH_LOOPS"))
	waitForGo()
	began, limit := time.Now(), time.Duration(milliseconds)*time.Millisecond
	calls := make([]int, runtime.GOMAXPROCS(0))
	var all sync.WaitGroup
	for i := range calls {
		all.Add(1)
		go func() {
			defer all.Done()
			for time.Since(began) < limit {
				burn(loops)
				calls[i]++
			}
		}()
	}
	all.Wait()
	total := 0
	for _, count := range calls {
		total += count
	}
	say(map[string]any{"calls": total, "seconds": time.Since(began).Seconds()})
}

//go:noinline
func burn(loops int) int {
	total := 0
	for n := range loops {
		total = (total + n*7) % 1_000_003
	}
	return total
}

func inserter(ctx context.Context) *river.Client[pgx.Tx] {
	return must(river.NewClient(riverpgxv5.New(pool(ctx)), &river.Config{}))
}

func pool(ctx context.Context) *pgxpool.Pool {
	return must(pgxpool.New(ctx, os.Getenv("DATABASE_URL")))
}

func waitForGo() {
	say(map[string]any{"ready": true})
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err == io.EOF {
		os.Exit(0)
	}
}

func now() float64 { return float64(time.Now().UnixNano()) / 1e9 }

var output sync.Mutex

func say(figures map[string]any) {
	line := must(json.Marshal(figures))
	output.Lock()
	defer output.Unlock()
	fmt.Println(string(line))
}

func number(text string) int { return must(strconv.Atoi(text)) }

func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
