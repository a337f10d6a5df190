package api

func (h *Handler) registerPages() error {
	if c := h.opt.Console; c != nil {
		h.open("GET /{$}", "/", c.ServeHTTP)
		h.open("GET /console/", "/console/", c.ServeHTTP)
	}
	return nil
}
