module decoding_example

go 1.19
