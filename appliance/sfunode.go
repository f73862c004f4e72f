package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"holdfast/appliance/config"
	"holdfast/sfu"
)

// clusterOf is what the configuration says of the call relays' cluster; nil: there is none.
func clusterOf(cfg *config.Config) (*sfu.Cluster, error) {
	if cfg.SFU.Redis == "" {
		return nil, nil
	}
	c := &sfu.Cluster{Redis: cfg.SFU.Redis, User: cfg.SFU.RedisUser, Password: cfg.SFU.RedisPassword, TLS: cfg.SFU.RedisTLS, Key: cfg.SFU.ClusterKey}
	if cfg.SFU.RedisCA != "" {
		b, err := os.ReadFile(cfg.SFU.RedisCA)
		if err != nil {
			return nil, fmt.Errorf("%s: sfu.redis_ca: %w", cfg.Source("sfu.redis_ca"), err)
		}
		c.CA = string(b)
	}
	return c, nil
}

// runSFU runs a call relay that takes calls of an appliance on another machine.
func runSFU(ctx context.Context, c *cli, _ []string) error {
	cfg, err := config.Load(c.in)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	tuneMemory()
	signal.Ignore(syscall.SIGPIPE)
	cluster, err := clusterOf(cfg)
	if err != nil {
		return err
	}
	if cluster == nil {
		return &usageError{"this command needs sfu.redis, sfu.redis_password and sfu.cluster_key, as the appliance has them"}
	}
	cluster.Node = true
	if cluster.Name, err = os.Hostname(); err != nil {
		return err
	}
	log := newLogs(cfg, c.err).component("sfu")
	var health net.Listener
	if cfg.Listen.Metrics != "" {
		if health, err = net.Listen("tcp", cfg.Listen.Metrics); err != nil {
			return fmt.Errorf("listen.metrics: %w; set another address, or \"\" for none", err)
		}
		defer health.Close()
	}
	relay, err := sfu.New(sfu.Options{Log: log, UDPPort: cfg.SFU.UDPPort, TCPPort: cfg.SFU.TCPPort, TURNPort: cfg.SFU.TURNPort, NodeIP: cfg.SFU.NodeIP, Cluster: cluster,
		MaxVideoKbps: cfg.SFU.MaxVideo, MaxScreenKbps: cfg.SFU.MaxScreen, MaxReceivedKbps: cfg.SFU.MaxReceived, AudioFirst: cfg.SFU.AudioFirst})
	if err == nil {
		err = relay.Start(ctx)
	}
	if errors.Is(err, sfu.ErrRedis) {
		return fmt.Errorf("%w; look whether Redis runs there, lets this machine in, and has the password of sfu.redis_password", err)
	}
	if err != nil {
		return fmt.Errorf("the call relay cannot start: %w; if a port is taken, choose others with sfu.udp_port, sfu.tcp_port and sfu.turn_port", err)
	}
	if health != nil {
		srv := &http.Server{Handler: nodeHealth(relay), ReadHeaderTimeout: 10 * time.Second}
		go srv.Serve(health)
		defer srv.Close()
	}
	p := relay.Ports()
	fmt.Fprintf(c.out, "The call relay %s takes calls: UDP %d, TCP %d, TURN %d.\n", cluster.Name, p.UDP, p.TCP, p.TURN)
	if err := tellSystemd("READY=1"); err != nil {
		log.Warn("the service manager cannot be told that the relay is ready", "err", err)
	}
	<-ctx.Done()
	stop() // a second signal ends the program at once
	wait := time.Duration(cfg.SFU.Drain) * time.Second
	tellSystemd(fmt.Sprintf("STOPPING=1\nEXTEND_TIMEOUT_USEC=%d", (wait + 30*time.Second).Microseconds()))
	if n := relay.Stats().Participants; n > 0 {
		log.Info("no further calls are taken; those that run may go on for a while, and then on another relay", "participants", n, "at_most", wait)
	}
	within, cancel := context.WithTimeout(context.WithoutCancel(ctx), wait)
	defer cancel()
	err = relay.Close(within)
	log.Info("stopped")
	return err
}

// nodeHealth answers how a node is, and has its figures.
func nodeHealth(relay *sfu.SFU) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(sfu.Metrics(), promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	answer := func(w http.ResponseWriter, status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		st := relay.Cluster()
		if st.Redis == "" {
			answer(w, http.StatusServiceUnavailable, map[string]any{"status": "not ready", "problems": []string{"it is stopping"}})
			return
		}
		if st.Trouble != "" {
			answer(w, http.StatusServiceUnavailable, map[string]any{"status": "not ready", "problems": []string{"Redis cannot be used: " + st.Trouble}})
			return
		}
		answer(w, http.StatusOK, map[string]any{"status": "ready", "calls": relay.Stats()})
	})
	return mux
}
