// csrc/example.c in Go: ten tokens from a buffer of logits; then a wrong parameter, by its name.
package main

import (
	"fmt"
	"log"

	"decoding_example/decoding"
)

const vocabSize = 1000

func main() {
	logits := make([]float32, vocabSize)
	for i := range logits {
		logits[i] = float32((i*7919)%997) / 100
	}
	params := decoding.NewParams(42)
	params.Temperature, params.TopP, params.TopK = 0.8, 0.95, 50
	sampler, err := decoding.NewSampler(vocabSize, []decoding.Params{params})
	if err != nil {
		log.Fatal(err)
	}
	defer sampler.Close()
	fmt.Printf("instruction set: %s\n", decoding.InstructionSet())
	for i := 0; i < 10; i++ {
		results, err := sampler.Sample(logits)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%d (%.4f) ", results[0].TokenID, results[0].Logprob)
	}
	fmt.Println()
	params.TopP = 1.5
	wrong, err := decoding.NewSampler(vocabSize, []decoding.Params{params})
	if err != nil {
		log.Fatal(err)
	}
	defer wrong.Close()
	_, err = wrong.Sample(logits)
	fmt.Println(err)
}
