package cli

import (
	"os"
	"path/filepath"
	"testing"
)

// TestWhoSetsTheLevel: a command is quiet only where nobody has said how much is to be logged, in whatever layer.
func TestWhoSetsTheLevel(t *testing.T) {
	for name, c := range map[string]struct {
		command      command
		file, dotenv string
		want         bool
	}{
		"nobody":             {file: "log: {format: text}\npipelines: {}\n"},
		"without a file":     {},
		"the file":           {file: "log: {level: info}\n", want: true},
		"the file, debug":    {file: "log: {level: debug}\n", want: true},
		"--log-level":        {command: command{logLevel: "info"}, want: true},
		"--set":              {command: command{set: []string{"log.level=info"}}, want: true},
		"--set, another key": {command: command{set: []string{"log.format=text"}}},
		"the environment":    {command: command{Streams: Streams{Environ: []string{"FERRY_LOG_LEVEL=info"}}}, want: true},
		".env":               {dotenv: "FERRY_LOG_LEVEL=info\n", want: true},
		".env, a comment":    {dotenv: "# FERRY_LOG_LEVEL=info\n"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range map[string]string{"ferry.yaml": c.file, ".env": c.dotenv} {
				if text == "" {
					continue
				}
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			c.command.Dir = dir
			cfg, err := c.command.load(nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := cfg.Log.LevelSet; got != c.want {
				t.Errorf("set: %t, want %t", got, c.want)
			}
			if c.file == "" {
				return
			}
			c.command.configFile, c.command.Dir = filepath.Join(dir, "ferry.yaml"), t.TempDir()
			if cfg, err = c.command.load(nil); err != nil || cfg.Log.LevelSet != c.want {
				t.Errorf("named by -c: %v, want %t", err, c.want)
			}
		})
	}
}
