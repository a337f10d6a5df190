package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ferry/internal/config"
)

// FuzzParse: any text gives a configuration that can be printed and read again, or errors that have a place and text;
// never a panic, and never the secret that the environment holds.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yml")
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src)
	}
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("? [a]\n: b\n"))
	f.Add([]byte("pipelines: {a: {source: {get: 'http://a', body: {a: [1, ~, 0x1], b: !!x 1}}}}"))
	const secret = "S3CR3T-value"
	f.Fuzz(func(t *testing.T, src []byte) {
		if len(src) > 1<<14 || strings.Contains(string(src), "file:") {
			return
		}
		c, err := config.Parse(src, "ferry.yaml", config.Options{
			Environ: []string{"TOKEN=" + secret, "N=5", "A=" + secret}, Checks: fakeChecks(),
		})
		if err != nil {
			var errs config.Errors
			if !errors.As(err, &errs) || len(errs) == 0 || len(errs) > 101 {
				t.Fatalf("err = %v", err)
			}
			for _, one := range errs {
				if one.File == "" || one.Msg == "" || one.Line < 0 || one.Col < 0 {
					t.Errorf("error without a place or text: %+v", *one)
				}
			}
			if strings.Contains(err.Error(), secret) {
				t.Errorf("the error shows a secret: %v", err)
			}
			return
		}
		if _, err := c.Redacted(); err != nil {
			t.Errorf("cannot be printed: %v", err)
		}
	})
}

// FuzzVariables: no name and no text of a variable makes the loader panic.
func FuzzVariables(f *testing.F) {
	f.Add("FERRY_LISTEN", ":8080")
	f.Add("FERRY_PIPELINES_ORDERS_SOURCE_HEADERS", "{a: b}")
	f.Add("FERRY_PIPELINES__SOURCE_", "x")
	f.Add("API_URL", "https://u:p@h?a=b;c")
	f.Add("FERRY_AUTH_KEYS", "[{")
	f.Fuzz(func(t *testing.T, name, text string) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, ".env"), []byte(name+"="+text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		const src = "pipelines: {orders: {source: {get: 'http://a', query: {a_b: c}}}}"
		_, _ = config.Parse([]byte(src), "ferry.yaml", config.Options{Environ: []string{name + "=" + text}})
		_, _ = config.Parse([]byte(src), "ferry.yaml", config.Options{Dir: dir})
	})
}
