package main

import "fmt"

func (d *Demo) prometheusCommand(s *service) (string, []string, error) {
	return "", nil, fmt.Errorf("image: not served yet")
}
